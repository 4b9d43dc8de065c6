-- Customers that are one person, and how candidates are found.

-- A customer's row says whom it is shown as; its writer puts that there when the customers actor has decided it.
ALTER TABLE customers
    ADD COLUMN named_by_hand    boolean NOT NULL DEFAULT false,
    ADD COLUMN merged_into      bigint,
    ADD COLUMN shown_name       text,
    ADD COLUMN shown_avatar_url text,
    ADD COLUMN link_version     bigint  NOT NULL DEFAULT 0,
    -- A column and not an index on lower(email): under row-level security PostgreSQL uses an index only for what is
    -- leakproof, which equality of texts is and lower() is not.
    ADD COLUMN email_key        text    GENERATED ALWAYS AS (lower(email)) STORED;
CREATE INDEX customers_email ON customers (tenant_id, email_key) WHERE email_key IS NOT NULL;
-- The newest version a new one has to be above, whatever the clock says after a restart.
CREATE INDEX customers_link ON customers (tenant_id, link_version) WHERE link_version > 0;
CREATE INDEX customers_merged ON customers (tenant_id, merged_into) WHERE merged_into IS NOT NULL;

-- Who was said to be one person with whom, when, by whom, and whether it was taken back. Never removed.
CREATE TABLE customer_merges (
    tenant_id         bigint      NOT NULL,
    id                bigint      NOT NULL,
    survivor_id       bigint      NOT NULL,
    merged_id         bigint      NOT NULL,
    by_user_id        bigint,
    created_at        timestamptz NOT NULL,
    undone_by_user_id bigint,
    undone_at         timestamptz,
    settled           boolean     NOT NULL,      -- the customers' rows are known to show it
    PRIMARY KEY (tenant_id, id),
    CHECK (survivor_id <> merged_id)
);
-- A customer is part of another by one merge at a time: no matter what an actor believes.
CREATE UNIQUE INDEX customer_merges_one ON customer_merges (tenant_id, merged_id) WHERE undone_at IS NULL;
CREATE INDEX customer_merges_survivor ON customer_merges (tenant_id, survivor_id, id DESC);
CREATE INDEX customer_merges_merged ON customer_merges (tenant_id, merged_id, id DESC);
CREATE INDEX customer_merges_unsettled ON customer_merges (tenant_id, id) WHERE NOT settled;

ALTER TABLE customer_merges ENABLE ROW LEVEL SECURITY;
ALTER TABLE customer_merges FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenants ON customer_merges USING (tenant_id = ANY ((SELECT mijra_tenants())::bigint[]))
    WITH CHECK (tenant_id = ANY (mijra_tenants()));
