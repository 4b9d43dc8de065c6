-- supports: 1
-- A batch is one statement now, so what stops it has to stop a statement.

-- Says that all tenants of a batch were kept, or ends the statement and with it everything that it wrote. The
-- detail names those that were taken over.
CREATE FUNCTION mijra_kept(wanted bigint[], kept bigint[]) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    lost bigint[];
BEGIN
    IF cardinality(kept) = cardinality(wanted) THEN
        RETURN true;
    END IF;
    lost := ARRAY(SELECT unnest(wanted) EXCEPT SELECT unnest(kept));
    RAISE EXCEPTION 'tenants were taken over by another node' USING
        ERRCODE = 'MJ001', DETAIL = array_to_string(lost, ',');
END $$;
