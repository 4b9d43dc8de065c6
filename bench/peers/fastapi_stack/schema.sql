CREATE TABLE channels (
    id              bigint PRIMARY KEY,
    phone_number_id text   NOT NULL UNIQUE
);

CREATE TABLE keyword_rules (
    id         bigint  PRIMARY KEY,
    channel_id bigint  NOT NULL REFERENCES channels,
    keyword    text    NOT NULL,
    reply      text    NOT NULL
);

CREATE TABLE customers (
    id            bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    channel_id    bigint      NOT NULL,
    phone         text        NOT NULL,
    name          text        NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    last_seen_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (channel_id, phone)
) WITH (fillfactor = 80);

CREATE TABLE conversations (
    id                   bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    channel_id           bigint      NOT NULL,
    customer_id          bigint      NOT NULL,
    status               text        NOT NULL DEFAULT 'open',
    assigned_to          bigint,
    last_seq             bigint      NOT NULL DEFAULT 1,
    message_count        bigint      NOT NULL DEFAULT 1,
    unread_count         bigint      NOT NULL DEFAULT 1,
    last_message         text        NOT NULL,
    last_message_at      timestamptz NOT NULL DEFAULT now(),
    reply_window_ends_at timestamptz NOT NULL DEFAULT now() + interval '24 hours',
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX conversations_one_open ON conversations (channel_id, customer_id) WHERE status <> 'closed';
CREATE INDEX conversations_inbox ON conversations (last_message_at DESC, id DESC);

CREATE TABLE messages (
    id                  bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    conversation_id     bigint      NOT NULL,
    seq                 bigint      NOT NULL,
    channel_id          bigint      NOT NULL,
    platform_message_id text        NOT NULL,
    direction           text        NOT NULL,
    type                text        NOT NULL,
    content             jsonb       NOT NULL,
    platform_at         timestamptz NOT NULL,
    created_at          timestamptz NOT NULL DEFAULT now(),
    UNIQUE (channel_id, platform_message_id),
    UNIQUE (conversation_id, seq)
);

CREATE TABLE events (
    cursor  bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    channel text        NOT NULL,
    name    text        NOT NULL,
    data    jsonb       NOT NULL,
    at      timestamptz NOT NULL DEFAULT now()
);
