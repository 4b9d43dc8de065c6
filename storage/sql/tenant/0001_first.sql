-- supports: 1
-- The tenant database: the same schema for a tenant of its own and for a pool of tenants.
--
-- tenant_id comes first in every key, and row-level security is forced on every table, so that one
-- code path serves both placements and a pool can be distributed by tenant_id. A connection sees the
-- tenants listed in the setting mijra.tenants ('7' or '7,12,31') and no others.
--
-- The tables that grow with traffic carry no foreign keys: each row has exactly one writer (the
-- conversation's actor, through the batching writer), which writes parents and children together;
-- a trigger per row would check again what that writer already promises.

CREATE FUNCTION mijra_tenants() RETURNS bigint[] LANGUAGE sql STABLE PARALLEL SAFE
    RETURN string_to_array(current_setting('mijra.tenants', true), ',')::bigint[];

-- Folds what people type differently and mean alike: case, Arabic letter forms, diacritics, tatweel
-- and Arabic-Indic digits. The same function is applied to stored text and to what is searched for.
CREATE FUNCTION mijra_fold(input text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN translate(
        regexp_replace(lower(input), '[\u064B-\u065F\u0670\u0640]', '', 'g'),
        'أإآٱىةؤئ٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹',
        'اااايهوي01234567890123456789'
    );

-- What full-text search indexes and looks for. Cut off, because PostgreSQL refuses a document whose words
-- together pass 1 MB, and a long e-mail must not be refused for being long.
CREATE FUNCTION mijra_words(input text) RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN to_tsvector('simple', mijra_fold(left(input, 50000)));

-- The engine's milliseconds since the epoch.
CREATE FUNCTION mijra_at(milliseconds bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN to_timestamp(milliseconds / 1000::double precision);

-- Who may write for a tenant. Every batch checks the epoch and moves the cursor in its first
-- statement; a writer with an older epoch is refused by the database, whatever its own clock says.
CREATE TABLE ownership (
    tenant_id  bigint      PRIMARY KEY,
    node       text        NOT NULL,
    epoch      bigint      NOT NULL,
    cursor     bigint      NOT NULL DEFAULT 0,   -- the last event's position; gapless, in commit order
    taken_at   timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Ids of committed batches, to find out what became of a commit whose answer was lost. Short-lived.
CREATE TABLE batches (
    id           uuid        PRIMARY KEY,
    committed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX batches_by_age ON batches (committed_at);

-- ---------------------------------------------------------------- configuration

CREATE TABLE users (
    tenant_id    bigint      NOT NULL,
    id           bigint      NOT NULL,          -- the landlord's user id: one login, many tenants
    name         text        NOT NULL,
    email        text        NOT NULL,
    role         text        NOT NULL CHECK (role IN ('owner', 'admin', 'agent')),
    active       boolean     NOT NULL,
    availability text        NOT NULL CHECK (availability IN ('online', 'away', 'offline')),
    work_hours   jsonb,                          -- the agent's own week; null means the tenant's
    capacity     integer,                        -- open conversations at most; null means no limit
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE UNIQUE INDEX users_email ON users (tenant_id, lower(email));

CREATE TABLE channels (
    tenant_id   bigint      NOT NULL,
    id          bigint      NOT NULL,
    platform    text        NOT NULL,
    name        text        NOT NULL,
    external_id text        NOT NULL,            -- the account on the platform (WhatsApp: phone_number_id)
    credentials bytea       NOT NULL,            -- sealed with the master key, never readable here
    settings    jsonb       NOT NULL,            -- base_url, api_version, limits …: nothing secret
    status      text        NOT NULL CHECK (status IN ('active', 'disabled', 'needs_attention')),
    status_note text,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE UNIQUE INDEX channels_account ON channels (tenant_id, platform, external_id);

CREATE TABLE tags (
    tenant_id  bigint      NOT NULL,
    id         bigint      NOT NULL,
    name       text        NOT NULL,
    color      text        NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE UNIQUE INDEX tags_name ON tags (tenant_id, lower(name));

CREATE TABLE automated_replies (
    tenant_id        bigint      NOT NULL,
    id               bigint      NOT NULL,
    kind             text        NOT NULL CHECK (kind IN ('greeting', 'keyword', 'away')),
    name             text        NOT NULL,
    active           boolean     NOT NULL,
    priority         integer     NOT NULL,       -- the smallest wins; ties by id
    channel_ids      bigint[]    NOT NULL,       -- empty: every channel
    match            text        CHECK (match IN ('contains', 'exact', 'regex')),
    patterns         text[]      NOT NULL,
    reply            jsonb       NOT NULL,
    cooldown_seconds integer     NOT NULL,       -- once per rule and conversation per this time
    created_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);

CREATE TABLE settings (
    tenant_id  bigint      NOT NULL,
    name       text        NOT NULL,             -- 'assignment', 'work_hours', 'conversations'
    value      jsonb       NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, name)
);

-- ---------------------------------------------------------------- people

CREATE TABLE customers (
    tenant_id     bigint      NOT NULL,
    id            bigint      NOT NULL,
    name          text        NOT NULL,
    avatar_url    text,
    email         text,
    phone         text,                          -- E.164 with '+'
    locale        text,
    timezone      text,
    attributes    jsonb       NOT NULL,
    source        text        NOT NULL,
    first_seen_at timestamptz NOT NULL,
    last_seen_at  timestamptz NOT NULL,
    created_at    timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX customers_phone ON customers (tenant_id, phone) WHERE phone IS NOT NULL;
-- No index serves the search yet, here and on messages.text and conversations.tag_ids: under forced row-level
-- security PostgreSQL uses no index whose operators are not leakproof, and neither full-text nor array ones
-- are. Measured: GIN indexes there cost every write and no plan used them. Search reads the tenant's texts.

-- A handle is one name of a person on one channel account. `contact_key` is the key of the actor that
-- owns the contact: all handles of one contact carry the same one, whichever handle came first.
CREATE TABLE customer_handles (
    tenant_id   bigint      NOT NULL,
    channel_id  bigint      NOT NULL,
    external_id text        NOT NULL,
    contact_key text        NOT NULL,
    customer_id bigint      NOT NULL,
    platform    text        NOT NULL,
    display     text,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, channel_id, external_id)
);
CREATE INDEX customer_handles_customer ON customer_handles (tenant_id, customer_id);
CREATE INDEX customer_handles_contact ON customer_handles (tenant_id, channel_id, contact_key);

-- ---------------------------------------------------------------- conversations

-- status: new → open → pending ⇄ open → resolved → (customer writes) open …; archived is final.
CREATE TABLE conversations (
    tenant_id            bigint      NOT NULL,
    id                   bigint      NOT NULL,
    channel_id           bigint      NOT NULL,
    platform             text        NOT NULL,
    contact_key          text        NOT NULL,
    customer_id          bigint      NOT NULL,
    channel_type         text        NOT NULL,
    status               text        NOT NULL CHECK (status IN ('new', 'open', 'pending', 'resolved', 'archived')),
    assigned_to          bigint,
    department_id        bigint,
    last_seq             bigint      NOT NULL,   -- the highest sequence number given out; gapless from 1
    message_count        bigint      NOT NULL,
    unread_count         bigint      NOT NULL,
    last_message         jsonb,                  -- {seq, direction, type, preview, at}
    last_message_at      timestamptz,
    last_inbound_at      timestamptz,
    first_response_at    timestamptz,
    resolved_at          timestamptz,
    reply_window_ends_at timestamptz,
    snoozed_until        timestamptz,
    tag_ids              bigint[]    NOT NULL,
    auto_replied         jsonb       NOT NULL,   -- {rule id: time in ms}: when each rule last answered here
    metadata             jsonb       NOT NULL,
    created_at           timestamptz NOT NULL,
    updated_at           timestamptz NOT NULL,
    -- What the inbox is sorted by: a conversation without a message yet stands where it began.
    active_at            timestamptz NOT NULL GENERATED ALWAYS AS (coalesce(last_message_at, created_at)) STORED,
    PRIMARY KEY (tenant_id, id)
) WITH (fillfactor = 70);
-- One open conversation per contact and channel: the promise lives here, the actor only keeps it cheap.
CREATE UNIQUE INDEX conversations_one_open ON conversations (tenant_id, channel_id, contact_key)
    WHERE status IN ('new', 'open', 'pending');
CREATE INDEX conversations_contact ON conversations (tenant_id, channel_id, contact_key, id DESC);
CREATE INDEX conversations_inbox ON conversations (tenant_id, active_at DESC, id DESC);
CREATE INDEX conversations_inbox_status ON conversations (tenant_id, status, active_at DESC, id DESC);
-- Two partial ones, because an index on assigned_to serves "nobody's" without its order.
CREATE INDEX conversations_inbox_agent ON conversations (tenant_id, assigned_to, active_at DESC, id DESC)
    WHERE assigned_to IS NOT NULL;
CREATE INDEX conversations_inbox_nobody ON conversations (tenant_id, active_at DESC, id DESC)
    WHERE assigned_to IS NULL;
CREATE INDEX conversations_waiting ON conversations (tenant_id, id)
    WHERE assigned_to IS NULL AND status IN ('new', 'open');
-- Most conversations have no tags, and each of their messages would otherwise pay for this index.

CREATE TABLE messages (
    tenant_id           bigint      NOT NULL,
    conversation_id     bigint      NOT NULL,
    seq                 bigint      NOT NULL,
    id                  bigint      NOT NULL,
    channel_id          bigint      NOT NULL,
    contact_key         text        NOT NULL,
    direction           text        NOT NULL CHECK (direction IN ('inbound', 'outbound')),
    type                text        NOT NULL,
    sender_type         text        NOT NULL CHECK (sender_type IN ('customer', 'user', 'bot', 'system')),
    sender_id           bigint,
    sender_name         text,
    content             jsonb       NOT NULL,
    text                text        NOT NULL,    -- what a person would read; searched and previewed
    reply_to_id         bigint,
    reply_to_seq        bigint,
    status              text        NOT NULL CHECK (status IN
        ('received', 'pending', 'sending', 'sent', 'delivered', 'read', 'failed', 'unknown')),
    platform_message_id text,
    client_key          text,
    platform_at         timestamptz,             -- the platform's own time of an inbound message
    sent_at             timestamptz,
    delivered_at        timestamptz,
    read_at             timestamptz,
    failed_at           timestamptz,
    error               jsonb,                   -- {code, platform_code, message, retryable}
    edited_at           timestamptz,
    deleted_at          timestamptz,
    metadata            jsonb       NOT NULL,
    trace               text        NOT NULL,
    created_at          timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, conversation_id, seq)
) WITH (fillfactor = 90);
CREATE UNIQUE INDEX messages_id ON messages (tenant_id, id);
CREATE UNIQUE INDEX messages_platform_id ON messages (tenant_id, channel_id, platform_message_id)
    WHERE platform_message_id IS NOT NULL;
CREATE UNIQUE INDEX messages_client_key ON messages (tenant_id, conversation_id, client_key)
    WHERE client_key IS NOT NULL;

CREATE TABLE attachments (
    tenant_id       bigint      NOT NULL,
    id              bigint      NOT NULL,
    conversation_id bigint      NOT NULL,
    message_id      bigint      NOT NULL,
    channel_id      bigint      NOT NULL,
    contact_key     text        NOT NULL,
    type            text        NOT NULL,
    state           text        NOT NULL CHECK (state IN ('pending', 'stored', 'failed')),
    source_id       text,                        -- the platform's media id
    source_url      text,
    sha256          text,                        -- hex; what the platform promised, then what was stored
    filename        text,
    media_type      text,
    size            bigint,
    width           integer,
    height          integer,
    duration        double precision,
    storage_key     text,
    attempts        integer     NOT NULL,
    next_try_at     timestamptz,
    error           text,
    created_at      timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX attachments_message ON attachments (tenant_id, message_id);
CREATE INDEX attachments_pending ON attachments (tenant_id, id) WHERE state = 'pending';

-- Every status that a platform reported, as it came.
CREATE TABLE message_statuses (
    tenant_id           bigint      NOT NULL,
    id                  bigint      NOT NULL,
    message_id          bigint,
    platform_message_id text        NOT NULL,
    status              text        NOT NULL,
    code                text,
    detail              jsonb,
    at                  timestamptz NOT NULL,
    received_at         timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX message_statuses_message ON message_statuses (tenant_id, message_id);

-- What is to be sent. queued → sending → done | dead; sending → unknown → done | queued again.
CREATE TABLE outbox (
    tenant_id       bigint      NOT NULL,
    id              bigint      NOT NULL,
    channel_id      bigint      NOT NULL,
    conversation_id bigint      NOT NULL,
    contact_key     text        NOT NULL,
    message_id      bigint,                      -- null: a signal (mark-read, typing) without a message
    recipient       text        NOT NULL,
    lane            smallint    NOT NULL,        -- 0 realtime, 1 normal, 2 bulk
    state           text        NOT NULL CHECK (state IN ('queued', 'sending', 'unknown', 'done', 'dead')),
    attempts        integer     NOT NULL,
    not_before      timestamptz NOT NULL,
    payload         jsonb       NOT NULL,        -- the platform-neutral send (engine/domain/outbound.py)
    error           jsonb,
    trace           text        NOT NULL,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
) WITH (fillfactor = 70);
CREATE INDEX outbox_open ON outbox (tenant_id, channel_id, id) WHERE state IN ('queued', 'sending', 'unknown');
CREATE INDEX outbox_message ON outbox (tenant_id, message_id);

CREATE TABLE notes (
    tenant_id       bigint      NOT NULL,
    id              bigint      NOT NULL,
    conversation_id bigint      NOT NULL,
    user_id         bigint      NOT NULL,
    user_name       text        NOT NULL,
    body            text        NOT NULL,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    deleted_at      timestamptz,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX notes_conversation ON notes (tenant_id, conversation_id, id);

CREATE TABLE conversation_tags (
    tenant_id       bigint      NOT NULL,
    id              bigint      NOT NULL,
    conversation_id bigint      NOT NULL,
    tag_id          bigint      NOT NULL,
    action          text        NOT NULL CHECK (action IN ('added', 'removed')),
    by_user_id      bigint,
    at              timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX conversation_tags_conversation ON conversation_tags (tenant_id, conversation_id, id);

-- Assignments and transfers in one history: a transfer is an assignment with a note and a previous one.
CREATE TABLE assignments (
    tenant_id       bigint      NOT NULL,
    id              bigint      NOT NULL,
    conversation_id bigint      NOT NULL,
    kind            text        NOT NULL CHECK (kind IN ('assign', 'unassign', 'transfer')),
    from_user_id    bigint,
    to_user_id      bigint,
    by_user_id      bigint,                      -- null: the assigner
    note            text,
    at              timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX assignments_conversation ON assignments (tenant_id, conversation_id, id);
CREATE INDEX assignments_from_pool ON assignments (tenant_id, id) WHERE by_user_id IS NULL AND kind = 'assign';

-- Durable deadlines. The row goes in the same commit as what the deadline causes.
CREATE TABLE timers (
    tenant_id       bigint      NOT NULL,
    id              bigint      NOT NULL,
    kind            text        NOT NULL,
    channel_id      bigint      NOT NULL,
    contact_key     text        NOT NULL,
    conversation_id bigint      NOT NULL,
    due_at          timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX timers_due ON timers (tenant_id, due_at);

-- ---------------------------------------------------------------- logs, partitioned by day

CREATE TABLE deliveries (
    tenant_id   bigint      NOT NULL,
    id          bigint      NOT NULL,
    platform    text        NOT NULL,
    channel_id  bigint,
    headers     jsonb       NOT NULL,
    body        bytea       NOT NULL,
    outcome     text        NOT NULL CHECK (outcome IN ('accepted', 'not_understood')),
    items       integer     NOT NULL,
    trace       text        NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id, received_at)
) PARTITION BY RANGE (received_at);
CREATE TABLE deliveries_default PARTITION OF deliveries DEFAULT;

CREATE TABLE events (
    tenant_id bigint      NOT NULL,
    cursor    bigint      NOT NULL,
    name      text        NOT NULL,
    channels  text[]      NOT NULL,
    data      json        NOT NULL,              -- not jsonb: what is read again is what was pushed, byte for byte
    trace     text        NOT NULL,
    at        timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, cursor, at)
) PARTITION BY RANGE (at);
CREATE TABLE events_default PARTITION OF events DEFAULT;

CREATE TABLE dead_letters (
    tenant_id  bigint      NOT NULL,
    id         bigint      NOT NULL,
    address    text        NOT NULL,
    message    jsonb       NOT NULL,
    error      text        NOT NULL,
    attempts   integer     NOT NULL,
    state      text        NOT NULL CHECK (state IN ('parked', 'retried', 'discarded')),
    trace      text        NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);

CREATE TABLE audit_log (
    tenant_id bigint      NOT NULL,
    id        bigint      NOT NULL,
    user_id   bigint,
    action    text        NOT NULL,
    subject   text        NOT NULL,
    before    jsonb,
    after     jsonb,
    trace     text        NOT NULL,
    at        timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);

-- The first answer to a call with an Idempotency-Key, kept for 24 h.
CREATE TABLE idempotency_keys (
    tenant_id  bigint      NOT NULL,
    user_id    bigint      NOT NULL,
    key        text        NOT NULL,
    request    bytea       NOT NULL,             -- SHA-256 of method, path and body
    status     integer,                          -- null while the first call is under way
    answer     bytea,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, user_id, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

CREATE TABLE files (
    tenant_id   bigint      NOT NULL,
    id          bigint      NOT NULL,
    filename    text        NOT NULL,
    media_type  text        NOT NULL,
    size        bigint      NOT NULL,
    sha256      text        NOT NULL,
    storage_key text        NOT NULL,
    user_id     bigint      NOT NULL,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'ownership', 'users', 'channels', 'tags', 'automated_replies', 'settings', 'customers',
        'customer_handles', 'conversations', 'messages', 'attachments', 'message_statuses', 'outbox',
        'notes', 'conversation_tags', 'assignments', 'timers', 'deliveries', 'events', 'dead_letters',
        'audit_log', 'idempotency_keys', 'files'
    ] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY own_tenants ON %I USING (tenant_id = ANY ((SELECT mijra_tenants())::bigint[]))'
            ' WITH CHECK (tenant_id = ANY (mijra_tenants()))', name);
    END LOOP;
    -- Partitions are read through their parents, whose policy counts. With row security and no policy of
    -- their own they show nothing to whoever names them.
    FOREACH name IN ARRAY ARRAY['deliveries_default', 'events_default'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
    END LOOP;
END $$;
