-- supports: 1
-- The landlord database: who the tenants are, where they live, who may log in, and which connected
-- account belongs to whom. Small, read at start and kept in memory where the edge needs it.

CREATE TABLE tenants (
    id         bigint      PRIMARY KEY,
    slug       text        NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    name       text        NOT NULL,
    status     text        NOT NULL CHECK (status IN ('active', 'suspended')),
    locale     text        NOT NULL,
    timezone   text        NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);

-- Where a tenant's data is. 'creating' until its database is migrated: a crash in between is finished
-- by the next start.
CREATE TABLE placements (
    tenant_id bigint PRIMARY KEY REFERENCES tenants,
    database  text   NOT NULL,
    isolation text   NOT NULL CHECK (isolation IN ('own', 'pooled')),
    state     text   NOT NULL CHECK (state IN ('creating', 'ready', 'moving'))
);

CREATE TABLE users (
    id            bigint      PRIMARY KEY,
    email         text        NOT NULL,
    name          text        NOT NULL,
    password_hash text        NOT NULL,          -- argon2id
    active        boolean     NOT NULL,
    landlord      boolean     NOT NULL,          -- may call the landlord's admin routes
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL
);
CREATE UNIQUE INDEX users_email ON users (lower(email));

CREATE TABLE memberships (
    user_id    bigint      NOT NULL REFERENCES users,
    tenant_id  bigint      NOT NULL REFERENCES tenants,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, tenant_id)
);
CREATE INDEX memberships_tenant ON memberships (tenant_id, user_id);

CREATE TABLE tokens (
    id           bigint      PRIMARY KEY,
    user_id      bigint      NOT NULL REFERENCES users,
    tenant_id    bigint      REFERENCES tenants, -- null: good for every tenant of the user
    name         text        NOT NULL,
    secret_hash  bytea       NOT NULL,           -- SHA-256 of the secret; the secret itself is shown once
    abilities    text[]      NOT NULL,           -- '*' or permissions
    expires_at   timestamptz,
    last_used_at timestamptz,
    revoked_at   timestamptz,
    created_at   timestamptz NOT NULL
);
CREATE INDEX tokens_user ON tokens (user_id, id);

-- What the edge routes by. The primary key settles who owns an account when two tenants claim it.
CREATE TABLE channel_directory (
    platform     text        NOT NULL,
    external_id  text        NOT NULL,
    tenant_id    bigint      NOT NULL REFERENCES tenants,
    channel_id   bigint      NOT NULL,
    endpoint_key text        NOT NULL UNIQUE,    -- the unguessable part of the account's own webhook URL
    parent_id    text,                           -- WhatsApp: the business account (WABA) above the number
    credentials  bytea       NOT NULL,           -- sealed: what the edge needs to check signatures
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (platform, external_id)
);
CREATE INDEX channel_directory_tenant ON channel_directory (tenant_id);

-- Deliveries with a good signature for an account that nobody has connected: parked, never dropped.
CREATE TABLE unrouted_deliveries (
    id          bigint      PRIMARY KEY,
    platform    text        NOT NULL,
    external_id text,
    headers     jsonb       NOT NULL,
    body        bytea       NOT NULL,
    reason      text        NOT NULL,
    trace       text        NOT NULL,
    received_at timestamptz NOT NULL
);
CREATE INDEX unrouted_deliveries_age ON unrouted_deliveries (received_at);

CREATE TABLE audit_log (
    id      bigint      PRIMARY KEY,
    user_id bigint,
    action  text        NOT NULL,
    subject text        NOT NULL,
    before  jsonb,
    after   jsonb,
    trace   text        NOT NULL,
    at      timestamptz NOT NULL
);
CREATE INDEX audit_log_age ON audit_log (at);
