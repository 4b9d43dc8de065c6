-- supports: 1
-- A tenant's app for Pusher's protocol. Made with the tenant, and at the next start for tenants that are
-- older than this table, because the secret is sealed with a key that the database does not have.
CREATE TABLE push_apps (
    tenant_id  bigint      PRIMARY KEY REFERENCES tenants,
    key        text        NOT NULL UNIQUE,      -- public: it stands in the URL that clients connect to
    secret     bytea       NOT NULL,             -- sealed
    created_at timestamptz NOT NULL
);
