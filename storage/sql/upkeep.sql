-- Housekeeping of tenant databases.

-- name: partitions
-- The partitions of a table.
SELECT child.relname::text
FROM pg_inherits
JOIN pg_class AS child ON child.oid = pg_inherits.inhrelid
WHERE pg_inherits.inhparent = $1::text::regclass;

-- name: make_partition
-- A day's partition, with the rows of that day that had no place but the default one. The default partition's
-- row security is lifted within the transaction, because its owner has to see all tenants' rows to move them.
LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE;
CREATE TABLE {partition} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
ALTER TABLE {table}_default NO FORCE ROW LEVEL SECURITY;
WITH moved AS (
    DELETE FROM {table}_default WHERE {column} >= '{from}' AND {column} < '{to}' RETURNING *
)
INSERT INTO {partition} SELECT * FROM moved;
ALTER TABLE {table}_default FORCE ROW LEVEL SECURITY;
ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM ('{from}') TO ('{to}');
ALTER TABLE {partition} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {partition} FORCE ROW LEVEL SECURITY;

-- name: forget_idempotency_keys
-- Keys that have expired, a bounded number at a time; the next run takes the rest.
DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM idempotency_keys WHERE created_at < mijra_at($1::bigint) LIMIT 50000
));
