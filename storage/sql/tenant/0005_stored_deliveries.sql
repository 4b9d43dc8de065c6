-- Deliveries that are large, or bring files, are in the object store; the row says where.
ALTER TABLE deliveries ADD COLUMN storage_key text;
