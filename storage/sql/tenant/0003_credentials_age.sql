-- supports: 1
-- When a channel's credentials were given or renewed last, and when they expire; null: never, or nobody knows.

ALTER TABLE channels
    ADD COLUMN credentials_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN credentials_expire_at timestamptz;

UPDATE channels SET credentials_at = created_at;
