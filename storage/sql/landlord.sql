-- The landlord's statements. Each is a transaction of its own, except those of a tenant's creation.

-- name: tenants
-- A page of tenants by id, with their placements.
SELECT t.*, p.database, p.isolation, p.state AS placement_state
FROM tenants AS t JOIN placements AS p ON p.tenant_id = t.id
WHERE t.id > $1 ORDER BY t.id LIMIT $2;

-- name: tenant
-- One tenant by slug.
SELECT t.*, p.database, p.isolation, p.state AS placement_state
FROM tenants AS t JOIN placements AS p ON p.tenant_id = t.id
WHERE t.slug = $1;

-- name: lock_creation
-- One creation at a time chooses a place; held until the end of the transaction.
SELECT pg_advisory_xact_lock(1835627122);

-- name: choose_pool
-- The lowest pool with room: $1 is how many tenants fit in one.
SELECT n FROM generate_series(1, 1 + (SELECT count(*) FROM placements WHERE isolation = 'pooled') / $1::bigint) AS n
WHERE (
    SELECT count(*) FROM placements
    WHERE isolation = 'pooled' AND database = $2::text || n::text
) < $1::bigint
ORDER BY n LIMIT 1;

-- name: add_tenant
-- A new tenant; a slug in use refuses.
INSERT INTO tenants (id, slug, name, status, locale, timezone, created_at, updated_at)
VALUES ($1, $2, $3, 'active', $4, $5, $6, $6);

-- name: add_placement
-- Where it will be. 'creating' until its database is ready.
INSERT INTO placements (tenant_id, database, isolation, state) VALUES ($1, $2, $3, 'creating');

-- name: placement_ready
-- Its database is migrated.
UPDATE placements SET state = 'ready' WHERE tenant_id = $1 AND state = 'creating';

-- name: set_tenant_status
-- Active or suspended.
UPDATE tenants SET status = $2, updated_at = $3 WHERE id = $1 RETURNING id;

-- name: login_by_email
-- A login with the tenants it belongs to, by e-mail whatever its case.
SELECT u.*, array(
    SELECT m.tenant_id FROM memberships AS m WHERE m.user_id = u.id ORDER BY m.tenant_id
) AS tenant_ids
FROM users AS u WHERE lower(u.email) = lower($1);

-- name: login
-- A login with the tenants it belongs to, by id.
SELECT u.*, array(
    SELECT m.tenant_id FROM memberships AS m WHERE m.user_id = u.id ORDER BY m.tenant_id
) AS tenant_ids
FROM users AS u WHERE u.id = $1;

-- name: create_login
-- A new login; an e-mail in use refuses.
INSERT INTO users (id, email, name, password_hash, active, landlord, created_at, updated_at)
VALUES ($1, $2, $3, $4, true, $5, $6, $6);

-- name: update_login
-- Changes to a login; null leaves a column alone.
UPDATE users SET
    name = coalesce($2, name), email = coalesce($3, email), password_hash = coalesce($4, password_hash),
    active = coalesce($5, active), updated_at = $6
WHERE id = $1 RETURNING id;

-- name: add_membership
-- A login belongs to a tenant; doing it twice changes nothing.
INSERT INTO memberships (user_id, tenant_id, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: remove_membership
-- A login no longer belongs to a tenant.
DELETE FROM memberships WHERE user_id = $1 AND tenant_id = $2;

-- name: create_token
-- A new token.
INSERT INTO tokens (
    id, user_id, tenant_id, name, secret_hash, abilities, expires_at, last_used_at, revoked_at, created_at
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: token
-- One token by id.
SELECT * FROM tokens WHERE id = $1;

-- name: tokens_of
-- A page of a user's tokens, newest first.
SELECT * FROM tokens WHERE user_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3;

-- name: touch_token
-- When a token was last used; never back.
UPDATE tokens SET last_used_at = greatest(last_used_at, $2) WHERE id = $1;

-- name: revoke_token
-- A token is good for nothing from now on.
UPDATE tokens SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1;

-- name: revoke_tokens_of
-- All tokens of a user, or those for one tenant; answers which they were.
UPDATE tokens SET revoked_at = $3
WHERE user_id = $1 AND revoked_at IS NULL AND ($2::bigint IS NULL OR tenant_id = $2::bigint)
RETURNING id;

-- name: directory
-- All connected accounts.
SELECT * FROM channel_directory;

-- name: directory_entry
-- One connected account.
SELECT * FROM channel_directory WHERE platform = $1 AND external_id = $2;

-- name: add_directory
-- A connected account; one that is connected already refuses.
INSERT INTO channel_directory (
    platform, external_id, tenant_id, channel_id, endpoint_key, parent_id, credentials, created_at,
    credentials_at, credentials_expire_at
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: update_directory
-- New credentials of a connected account.
UPDATE channel_directory SET credentials = $3, parent_id = $4, credentials_at = $5, credentials_expire_at = $6
WHERE platform = $1 AND external_id = $2 RETURNING channel_id;

-- name: remove_directory
-- A tenant disconnects its account.
DELETE FROM channel_directory WHERE platform = $1 AND external_id = $2 AND tenant_id = $3;

-- name: park_unrouted
-- A delivery that nobody's account is meant by; repeating it changes nothing.
INSERT INTO unrouted_deliveries (id, platform, external_id, headers, body, reason, trace, received_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING;

-- name: forget_unrouted
-- Parked deliveries that are older than the retention, a bounded number at a time; the next run takes the rest.
DELETE FROM unrouted_deliveries WHERE id = ANY (ARRAY(
    SELECT id FROM unrouted_deliveries WHERE received_at < $1 ORDER BY received_at LIMIT 10000
)) RETURNING id;

-- name: audit
-- Who did what.
INSERT INTO audit_log (id, user_id, action, subject, before, after, trace, at)
VALUES ($1, $2, $3, $4, NULL, $5, $6, $7) ON CONFLICT (id) DO NOTHING;

-- name: push_apps
-- The apps of all tenants.
SELECT * FROM push_apps;

-- name: add_push_app
-- A tenant's app, unless it has one already; answers the one it has. The update changes nothing: it is what
-- makes PostgreSQL answer with a row that another call has added at the same moment.
INSERT INTO push_apps (tenant_id, key, secret, created_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant_id) DO UPDATE SET tenant_id = push_apps.tenant_id
RETURNING *;
