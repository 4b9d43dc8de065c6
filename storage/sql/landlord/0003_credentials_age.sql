-- supports: 1
-- As in the tenant's own row of the channel: whoever renews credentials finds here which are due.

ALTER TABLE channel_directory
    ADD COLUMN credentials_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN credentials_expire_at timestamptz;

UPDATE channel_directory SET credentials_at = created_at;
