-- supports: 1
-- How far a channel's account was read, where the adapter reads it itself (a mailbox, a feed) instead of being
-- told by webhooks. The text is the adapter's own; it moves after what it covers is durable.
CREATE TABLE channel_cursors (
    tenant_id  bigint      NOT NULL,
    channel_id bigint      NOT NULL,
    value      text        NOT NULL CHECK (octet_length(value) <= 4096),
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, channel_id)
);

ALTER TABLE channel_cursors ENABLE ROW LEVEL SECURITY;
ALTER TABLE channel_cursors FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenants ON channel_cursors USING (tenant_id = ANY ((SELECT mijra_tenants())::bigint[]))
    WITH CHECK (tenant_id = ANY (mijra_tenants()));
