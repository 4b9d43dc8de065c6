-- The batching writer's statements: one per kind of row, each for all rows of that kind in a batch.
--
-- Columns travel as arrays, one per column, in the order of the row's Struct. Times are milliseconds
-- (mijra_at turns them into timestamptz), JSON and arrays are text that is cast here, because unnest
-- would flatten an array of arrays.
--
-- No statement of rows runs alone: storage/fused.py puts those of a batch into one, each as a WITH, behind
-- `gate`. That is one row, or none of them sees any: they read it so that nothing is written before it is there.

-- name: open_batch
-- The gate of a batch: notes the batch's id, checks that the tenants are still ours and moves their cursors, in
-- this order, and stops everything (MJ001) when one was taken over. Waits for an earlier try of the same batch
-- that still runs on the server, and fails on batches_pkey when that one was committed.
WITH noted AS (
    INSERT INTO batches (id) VALUES ($5) RETURNING id
), kept AS (
    UPDATE ownership AS old SET cursor = new.after
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) AS new (tenant_id, epoch, before, after)
    WHERE old.tenant_id = new.tenant_id AND old.epoch = new.epoch AND old.cursor = new.before
    RETURNING old.tenant_id
), gate AS MATERIALIZED (
    -- What is kept is asked for each id that was noted, so never before it was.
    SELECT mijra_kept($1::bigint[], (SELECT array_agg(kept.tenant_id) FROM kept WHERE noted.id IS NOT NULL))
    FROM noted
)

-- name: opened_batch
-- The gate of what follows in a batch's transaction.
WITH gate AS (
    SELECT true
)

-- name: take_ownership
-- Makes a node the one that writes for these tenants: whoever wrote before has an older epoch from now on.
INSERT INTO ownership (tenant_id, node, epoch, cursor, taken_at)
SELECT new.tenant_id, $2, 1, 0, now() FROM unnest($1::bigint[]) AS new (tenant_id)
ON CONFLICT (tenant_id) DO UPDATE SET node = excluded.node, epoch = ownership.epoch + 1, taken_at = now()
RETURNING tenant_id, epoch, cursor;

-- name: analyze
-- Tells the planner how large the tables are that actors are loaded from.
ANALYZE customers, customer_handles, customer_merges, conversations, messages, attachments, outbox;

-- name: forget_batches
-- Removes the ids of batches that nobody can be in doubt about any more, a bounded number at a time.
DELETE FROM batches WHERE id IN (
    SELECT id FROM batches WHERE committed_at < now() - make_interval(secs => $1::float8)
    ORDER BY committed_at LIMIT $2::bigint
);

-- name: delete_users
-- Removes rows of users.
DELETE FROM users AS old
USING unnest($1::bigint[], $2::bigint[]) AS gone (tenant_id, id), gate
WHERE old.tenant_id = gone.tenant_id AND old.id = gone.id;

-- name: delete_channels
-- Removes rows of channels.
DELETE FROM channels AS old
USING unnest($1::bigint[], $2::bigint[]) AS gone (tenant_id, id), gate
WHERE old.tenant_id = gone.tenant_id AND old.id = gone.id;

-- name: delete_tags
-- Removes rows of tags.
DELETE FROM tags AS old
USING unnest($1::bigint[], $2::bigint[]) AS gone (tenant_id, id), gate
WHERE old.tenant_id = gone.tenant_id AND old.id = gone.id;

-- name: delete_automated_replies
-- Removes rows of automated_replies.
DELETE FROM automated_replies AS old
USING unnest($1::bigint[], $2::bigint[]) AS gone (tenant_id, id), gate
WHERE old.tenant_id = gone.tenant_id AND old.id = gone.id;

-- name: delete_timers
-- Removes timers that fired or are no longer wanted.
DELETE FROM timers AS old
USING unnest($1::bigint[], $2::bigint[]) AS gone (tenant_id, id), gate
WHERE old.tenant_id = gone.tenant_id AND old.id = gone.id;

-- name: upsert_users
-- Agents, whole rows.
INSERT INTO users (
    id, name, email, role, active, availability, work_hours, capacity, created_at, updated_at, tenant_id
)
SELECT
    new.id, new.name, new.email, new.role, new.active, new.availability, new.work_hours::jsonb,
    new.capacity, mijra_at(new.created_at), mijra_at(new.updated_at), new.tenant_id
FROM unnest(
    $1::bigint[], $2::text[], $3::text[], $4::text[], $5::boolean[], $6::text[], $7::text[], $8::bigint[],
    $9::bigint[], $10::bigint[], $11::bigint[]
) AS new (
    id, name, email, role, active, availability, work_hours, capacity, created_at, updated_at, tenant_id
), gate
ON CONFLICT (tenant_id, id) DO UPDATE SET
    name = excluded.name, email = excluded.email, role = excluded.role, active = excluded.active,
    availability = excluded.availability, work_hours = excluded.work_hours, capacity = excluded.capacity,
    created_at = excluded.created_at, updated_at = excluded.updated_at;

-- name: upsert_channels
-- Connected accounts, whole rows; the account's uniqueness may refuse.
INSERT INTO channels (
    id, platform, name, external_id, credentials, settings, status, status_note, created_at, updated_at,
    credentials_at, credentials_expire_at, tenant_id
)
SELECT
    new.id, new.platform, new.name, new.external_id, new.credentials, new.settings::jsonb, new.status,
    new.status_note, mijra_at(new.created_at), mijra_at(new.updated_at), mijra_at(new.credentials_at),
    mijra_at(new.credentials_expire_at), new.tenant_id
FROM unnest(
    $1::bigint[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::text[], $8::text[],
    $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[]
) AS new (
    id, platform, name, external_id, credentials, settings, status, status_note, created_at, updated_at,
    credentials_at, credentials_expire_at, tenant_id
), gate
ON CONFLICT (tenant_id, id) DO UPDATE SET
    platform = excluded.platform, name = excluded.name, external_id = excluded.external_id,
    credentials = excluded.credentials, settings = excluded.settings, status = excluded.status,
    status_note = excluded.status_note, created_at = excluded.created_at, updated_at = excluded.updated_at,
    credentials_at = excluded.credentials_at, credentials_expire_at = excluded.credentials_expire_at;

-- name: upsert_tags
-- Tags, whole rows; a name in use refuses.
INSERT INTO tags (
    id, name, color, created_at, updated_at, tenant_id
)
SELECT
    new.id, new.name, new.color, mijra_at(new.created_at), mijra_at(new.updated_at), new.tenant_id
FROM unnest(
    $1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[]
) AS new (
    id, name, color, created_at, updated_at, tenant_id
), gate
ON CONFLICT (tenant_id, id) DO UPDATE SET
    name = excluded.name, color = excluded.color, created_at = excluded.created_at,
    updated_at = excluded.updated_at;

-- name: upsert_automated_replies
-- Reply rules, whole rows.
INSERT INTO automated_replies (
    id, kind, name, active, priority, channel_ids, match, patterns, reply, cooldown_seconds, created_at,
    updated_at, tenant_id
)
SELECT
    new.id, new.kind, new.name, new.active, new.priority, new.channel_ids::bigint[], new.match,
    new.patterns::text[], new.reply::jsonb, new.cooldown_seconds, mijra_at(new.created_at),
    mijra_at(new.updated_at), new.tenant_id
FROM unnest(
    $1::bigint[], $2::text[], $3::text[], $4::boolean[], $5::bigint[], $6::text[], $7::text[], $8::text[],
    $9::text[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[]
) AS new (
    id, kind, name, active, priority, channel_ids, match, patterns, reply, cooldown_seconds, created_at,
    updated_at, tenant_id
), gate
ON CONFLICT (tenant_id, id) DO UPDATE SET
    kind = excluded.kind, name = excluded.name, active = excluded.active, priority = excluded.priority,
    channel_ids = excluded.channel_ids, match = excluded.match, patterns = excluded.patterns,
    reply = excluded.reply, cooldown_seconds = excluded.cooldown_seconds, created_at = excluded.created_at,
    updated_at = excluded.updated_at;

-- name: upsert_settings
-- Settings by name.
INSERT INTO settings (
    name, value, updated_at, tenant_id
)
SELECT
    new.name, new.value::jsonb, mijra_at(new.updated_at), new.tenant_id
FROM unnest(
    $1::text[], $2::text[], $3::bigint[], $4::bigint[]
) AS new (
    name, value, updated_at, tenant_id
), gate
ON CONFLICT (tenant_id, name) DO UPDATE SET
    value = excluded.value, updated_at = excluded.updated_at;

-- name: upsert_customers
-- Customers, whole rows.
INSERT INTO customers (
    id, name, avatar_url, email, phone, locale, timezone, attributes, source, first_seen_at, last_seen_at,
    created_at, named_by_hand, merged_into, shown_name, shown_avatar_url, link_version, tenant_id
)
SELECT
    new.id, new.name, new.avatar_url, new.email, new.phone, new.locale, new.timezone, new.attributes::jsonb,
    new.source, mijra_at(new.first_seen_at), mijra_at(new.last_seen_at), mijra_at(new.created_at),
    new.named_by_hand, new.merged_into, new.shown_name, new.shown_avatar_url, new.link_version, new.tenant_id
FROM unnest(
    $1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::text[], $10::bigint[], $11::bigint[], $12::bigint[], $13::boolean[], $14::bigint[], $15::text[],
    $16::text[], $17::bigint[], $18::bigint[]
) AS new (
    id, name, avatar_url, email, phone, locale, timezone, attributes, source, first_seen_at, last_seen_at,
    created_at, named_by_hand, merged_into, shown_name, shown_avatar_url, link_version, tenant_id
), gate
ON CONFLICT (tenant_id, id) DO UPDATE SET
    name = excluded.name, avatar_url = excluded.avatar_url, email = excluded.email, phone = excluded.phone,
    locale = excluded.locale, timezone = excluded.timezone, attributes = excluded.attributes,
    source = excluded.source, first_seen_at = excluded.first_seen_at, last_seen_at = excluded.last_seen_at,
    created_at = excluded.created_at, named_by_hand = excluded.named_by_hand,
    merged_into = excluded.merged_into, shown_name = excluded.shown_name,
    shown_avatar_url = excluded.shown_avatar_url, link_version = excluded.link_version;

-- name: upsert_customer_merges
-- Merges, whole rows; a second one that stands for the same customer refuses.
INSERT INTO customer_merges (
    id, survivor_id, merged_id, by_user_id, created_at, undone_by_user_id, undone_at, settled, tenant_id
)
SELECT
    new.id, new.survivor_id, new.merged_id, new.by_user_id, mijra_at(new.created_at), new.undone_by_user_id,
    mijra_at(new.undone_at), new.settled, new.tenant_id
FROM unnest(
    $1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
    $8::boolean[], $9::bigint[]
) AS new (
    id, survivor_id, merged_id, by_user_id, created_at, undone_by_user_id, undone_at, settled, tenant_id
), gate
ON CONFLICT (tenant_id, id) DO UPDATE SET
    survivor_id = excluded.survivor_id, merged_id = excluded.merged_id, by_user_id = excluded.by_user_id,
    created_at = excluded.created_at, undone_by_user_id = excluded.undone_by_user_id,
    undone_at = excluded.undone_at, settled = excluded.settled;

-- name: insert_customer_handles
-- New handles; one that belongs to somebody already refuses.
INSERT INTO customer_handles (
    channel_id, external_id, contact_key, customer_id, platform, display, created_at, moved_at, tenant_id
)
SELECT
    new.channel_id, new.external_id, new.contact_key, new.customer_id, new.platform, new.display,
    mijra_at(new.created_at), mijra_at(new.moved_at), new.tenant_id
FROM unnest(
    $1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::bigint[], $8::bigint[],
    $9::bigint[]
) AS new (
    channel_id, external_id, contact_key, customer_id, platform, display, created_at, moved_at, tenant_id
), gate;

-- name: change_customer_handles
-- A contact moves into another: its handles become those of whom the other's key leads to now.
UPDATE customer_handles AS handle
SET contact_key = owner.contact_key, customer_id = owner.customer_id, moved_at = mijra_at(new.at)
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[]) AS new (
    channel_id, from_key, into_key, at, tenant_id
), gate, customer_handles AS owner
WHERE owner.tenant_id = new.tenant_id AND owner.channel_id = new.channel_id AND owner.external_id = new.into_key
    AND handle.tenant_id = new.tenant_id AND handle.channel_id = new.channel_id
    AND handle.contact_key = new.from_key;

-- name: upsert_conversations
-- Conversations, whole rows, the closed ones first: a second open one of a contact refuses.
INSERT INTO conversations (
    id, channel_id, platform, contact_key, customer_id, channel_type, status, assigned_to, department_id,
    last_seq, message_count, unread_count, last_message, last_message_at, last_inbound_at,
    first_response_at, resolved_at, reply_window_ends_at, snoozed_until, tag_ids, auto_replied, metadata,
    created_at, updated_at, tenant_id
)
SELECT
    new.id, new.channel_id, new.platform, new.contact_key, new.customer_id, new.channel_type, new.status,
    new.assigned_to, new.department_id, new.last_seq, new.message_count, new.unread_count,
    new.last_message::jsonb, mijra_at(new.last_message_at), mijra_at(new.last_inbound_at),
    mijra_at(new.first_response_at), mijra_at(new.resolved_at), mijra_at(new.reply_window_ends_at),
    mijra_at(new.snoozed_until), new.tag_ids::bigint[], new.auto_replied::jsonb, new.metadata::jsonb,
    mijra_at(new.created_at), mijra_at(new.updated_at), new.tenant_id
FROM unnest(
    $1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::bigint[],
    $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::text[], $14::bigint[], $15::bigint[],
    $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[], $20::text[], $21::text[], $22::text[],
    $23::bigint[], $24::bigint[], $25::bigint[]
) AS new (
    id, channel_id, platform, contact_key, customer_id, channel_type, status, assigned_to, department_id,
    last_seq, message_count, unread_count, last_message, last_message_at, last_inbound_at,
    first_response_at, resolved_at, reply_window_ends_at, snoozed_until, tag_ids, auto_replied, metadata,
    created_at, updated_at, tenant_id
), gate
ON CONFLICT (tenant_id, id) DO UPDATE SET
    channel_id = excluded.channel_id, platform = excluded.platform, contact_key = excluded.contact_key,
    customer_id = excluded.customer_id, channel_type = excluded.channel_type, status = excluded.status,
    assigned_to = excluded.assigned_to, department_id = excluded.department_id,
    last_seq = excluded.last_seq, message_count = excluded.message_count,
    unread_count = excluded.unread_count, last_message = excluded.last_message,
    last_message_at = excluded.last_message_at, last_inbound_at = excluded.last_inbound_at,
    first_response_at = excluded.first_response_at, resolved_at = excluded.resolved_at,
    reply_window_ends_at = excluded.reply_window_ends_at, snoozed_until = excluded.snoozed_until,
    tag_ids = excluded.tag_ids, auto_replied = excluded.auto_replied, metadata = excluded.metadata,
    created_at = excluded.created_at, updated_at = excluded.updated_at;

-- name: insert_messages
-- New messages; a known id, platform id, client key or sequence number refuses.
INSERT INTO messages (
    conversation_id, seq, id, channel_id, contact_key, direction, type, sender_type, sender_id, sender_name,
    content, text, reply_to_id, reply_to_seq, status, platform_message_id, client_key, platform_at, sent_at,
    delivered_at, read_at, failed_at, error, edited_at, deleted_at, metadata, trace, created_at, tenant_id
)
SELECT
    new.conversation_id, new.seq, new.id, new.channel_id, new.contact_key, new.direction, new.type,
    new.sender_type, new.sender_id, new.sender_name, new.content::jsonb, new.text, new.reply_to_id,
    new.reply_to_seq, new.status, new.platform_message_id, new.client_key, mijra_at(new.platform_at),
    mijra_at(new.sent_at), mijra_at(new.delivered_at), mijra_at(new.read_at), mijra_at(new.failed_at),
    new.error::jsonb, mijra_at(new.edited_at), mijra_at(new.deleted_at), new.metadata::jsonb, new.trace,
    mijra_at(new.created_at), new.tenant_id
FROM unnest(
    $1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::bigint[], $10::text[], $11::text[], $12::text[], $13::bigint[], $14::bigint[], $15::text[],
    $16::text[], $17::text[], $18::bigint[], $19::bigint[], $20::bigint[], $21::bigint[], $22::bigint[],
    $23::text[], $24::bigint[], $25::bigint[], $26::text[], $27::text[], $28::bigint[], $29::bigint[]
) AS new (
    conversation_id, seq, id, channel_id, contact_key, direction, type, sender_type, sender_id, sender_name,
    content, text, reply_to_id, reply_to_seq, status, platform_message_id, client_key, platform_at, sent_at,
    delivered_at, read_at, failed_at, error, edited_at, deleted_at, metadata, trace, created_at, tenant_id
), gate;

-- name: insert_attachments
-- New attachments.
INSERT INTO attachments (
    id, conversation_id, message_id, channel_id, contact_key, type, state, source_id, source_url, sha256,
    filename, media_type, size, width, height, duration, storage_key, attempts, next_try_at, error,
    created_at, tenant_id
)
SELECT
    new.id, new.conversation_id, new.message_id, new.channel_id, new.contact_key, new.type, new.state,
    new.source_id, new.source_url, new.sha256, new.filename, new.media_type, new.size, new.width,
    new.height, new.duration, new.storage_key, new.attempts, mijra_at(new.next_try_at), new.error,
    mijra_at(new.created_at), new.tenant_id
FROM unnest(
    $1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::text[], $10::text[], $11::text[], $12::text[], $13::bigint[], $14::bigint[], $15::bigint[],
    $16::float8[], $17::text[], $18::bigint[], $19::bigint[], $20::text[], $21::bigint[], $22::bigint[]
) AS new (
    id, conversation_id, message_id, channel_id, contact_key, type, state, source_id, source_url, sha256,
    filename, media_type, size, width, height, duration, storage_key, attempts, next_try_at, error,
    created_at, tenant_id
), gate;

-- name: insert_message_statuses
-- Statuses as the platforms reported them.
INSERT INTO message_statuses (
    id, message_id, platform_message_id, status, code, detail, at, received_at, tenant_id
)
SELECT
    new.id, new.message_id, new.platform_message_id, new.status, new.code, new.detail::jsonb,
    mijra_at(new.at), mijra_at(new.received_at), new.tenant_id
FROM unnest(
    $1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[],
    $9::bigint[]
) AS new (
    id, message_id, platform_message_id, status, code, detail, at, received_at, tenant_id
), gate;

-- name: insert_outbox
-- What is to be sent.
INSERT INTO outbox (
    id, channel_id, conversation_id, contact_key, message_id, recipient, lane, state, attempts, not_before,
    payload, error, trace, created_at, updated_at, tenant_id
)
SELECT
    new.id, new.channel_id, new.conversation_id, new.contact_key, new.message_id, new.recipient, new.lane,
    new.state, new.attempts, mijra_at(new.not_before), new.payload::jsonb, new.error::jsonb, new.trace,
    mijra_at(new.created_at), mijra_at(new.updated_at), new.tenant_id
FROM unnest(
    $1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::text[], $7::bigint[],
    $8::text[], $9::bigint[], $10::bigint[], $11::text[], $12::text[], $13::text[], $14::bigint[],
    $15::bigint[], $16::bigint[]
) AS new (
    id, channel_id, conversation_id, contact_key, message_id, recipient, lane, state, attempts, not_before,
    payload, error, trace, created_at, updated_at, tenant_id
), gate;

-- name: upsert_notes
-- Notes, whole rows.
INSERT INTO notes (
    id, conversation_id, user_id, user_name, body, created_at, updated_at, deleted_at, tenant_id
)
SELECT
    new.id, new.conversation_id, new.user_id, new.user_name, new.body, mijra_at(new.created_at),
    mijra_at(new.updated_at), mijra_at(new.deleted_at), new.tenant_id
FROM unnest(
    $1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::bigint[],
    $8::bigint[], $9::bigint[]
) AS new (
    id, conversation_id, user_id, user_name, body, created_at, updated_at, deleted_at, tenant_id
), gate
ON CONFLICT (tenant_id, id) DO UPDATE SET
    conversation_id = excluded.conversation_id, user_id = excluded.user_id, user_name = excluded.user_name,
    body = excluded.body, created_at = excluded.created_at, updated_at = excluded.updated_at,
    deleted_at = excluded.deleted_at;

-- name: insert_conversation_tags
-- History of tags.
INSERT INTO conversation_tags (
    id, conversation_id, tag_id, action, by_user_id, at, tenant_id
)
SELECT
    new.id, new.conversation_id, new.tag_id, new.action, new.by_user_id, mijra_at(new.at), new.tenant_id
FROM unnest(
    $1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[]
) AS new (
    id, conversation_id, tag_id, action, by_user_id, at, tenant_id
), gate;

-- name: insert_assignments
-- History of assignments and transfers.
INSERT INTO assignments (
    id, conversation_id, kind, from_user_id, to_user_id, by_user_id, note, at, tenant_id
)
SELECT
    new.id, new.conversation_id, new.kind, new.from_user_id, new.to_user_id, new.by_user_id, new.note,
    mijra_at(new.at), new.tenant_id
FROM unnest(
    $1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[],
    $8::bigint[], $9::bigint[]
) AS new (
    id, conversation_id, kind, from_user_id, to_user_id, by_user_id, note, at, tenant_id
), gate;

-- name: upsert_timers
-- Durable deadlines, whole rows.
INSERT INTO timers (
    id, kind, channel_id, contact_key, conversation_id, due_at, tenant_id
)
SELECT
    new.id, new.kind, new.channel_id, new.contact_key, new.conversation_id, mijra_at(new.due_at),
    new.tenant_id
FROM unnest(
    $1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[]
) AS new (
    id, kind, channel_id, contact_key, conversation_id, due_at, tenant_id
), gate
ON CONFLICT (tenant_id, id) DO UPDATE SET
    kind = excluded.kind, channel_id = excluded.channel_id, contact_key = excluded.contact_key,
    conversation_id = excluded.conversation_id, due_at = excluded.due_at;

-- name: upsert_channel_cursors
-- How far accounts were read.
INSERT INTO channel_cursors (
    channel_id, value, updated_at, tenant_id
)
SELECT
    new.channel_id, new.value, mijra_at(new.updated_at), new.tenant_id
FROM unnest(
    $1::bigint[], $2::text[], $3::bigint[], $4::bigint[]
) AS new (
    channel_id, value, updated_at, tenant_id
), gate
ON CONFLICT (tenant_id, channel_id) DO UPDATE SET
    value = excluded.value, updated_at = excluded.updated_at;

-- name: insert_deliveries
-- Raw webhook deliveries.
INSERT INTO deliveries (
    id, platform, channel_id, headers, body, outcome, items, trace, received_at, storage_key, tenant_id
)
SELECT
    new.id, new.platform, new.channel_id, new.headers::jsonb, new.body, new.outcome, new.items, new.trace,
    mijra_at(new.received_at), new.storage_key, new.tenant_id
FROM unnest(
    $1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::bytea[], $6::text[], $7::bigint[], $8::text[],
    $9::bigint[], $10::text[], $11::bigint[]
) AS new (
    id, platform, channel_id, headers, body, outcome, items, trace, received_at, storage_key, tenant_id
), gate;

-- name: insert_files
-- Uploaded files.
INSERT INTO files (
    id, filename, media_type, size, sha256, storage_key, user_id, created_at, tenant_id
)
SELECT
    new.id, new.filename, new.media_type, new.size, new.sha256, new.storage_key, new.user_id,
    mijra_at(new.created_at), new.tenant_id
FROM unnest(
    $1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::bigint[], $8::bigint[],
    $9::bigint[]
) AS new (
    id, filename, media_type, size, sha256, storage_key, user_id, created_at, tenant_id
), gate;

-- name: insert_dead_letters
-- Messages that were given up.
INSERT INTO dead_letters (
    id, address, message, error, attempts, state, trace, created_at, tenant_id
)
SELECT
    new.id, new.address, new.message::jsonb, new.error, new.attempts, new.state, new.trace,
    mijra_at(new.created_at), new.tenant_id
FROM unnest(
    $1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::bigint[],
    $9::bigint[]
) AS new (
    id, address, message, error, attempts, state, trace, created_at, tenant_id
), gate;

-- name: insert_audit_log
-- Who changed what.
INSERT INTO audit_log (
    id, user_id, action, subject, before, after, trace, at, tenant_id
)
SELECT
    new.id, new.user_id, new.action, new.subject, new.before::jsonb, new.after::jsonb, new.trace,
    mijra_at(new.at), new.tenant_id
FROM unnest(
    $1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[],
    $9::bigint[]
) AS new (
    id, user_id, action, subject, before, after, trace, at, tenant_id
), gate;

-- name: patch_messages
-- Changes to messages; null leaves a column alone, metadata is merged into what is there, clear_failure empties
-- two columns first.
UPDATE messages AS old SET
    type = coalesce(new.type, old.type),
    content = coalesce(new.content::jsonb, old.content),
    text = coalesce(new.text, old.text),
    status = coalesce(new.status, old.status),
    platform_message_id = coalesce(new.platform_message_id, old.platform_message_id),
    sent_at = coalesce(mijra_at(new.sent_at), old.sent_at),
    delivered_at = coalesce(mijra_at(new.delivered_at), old.delivered_at),
    read_at = coalesce(mijra_at(new.read_at), old.read_at),
    failed_at = coalesce(mijra_at(new.failed_at), CASE WHEN new.clear_failure THEN NULL ELSE old.failed_at END),
    error = coalesce(new.error::jsonb, CASE WHEN new.clear_failure THEN NULL ELSE old.error END),
    edited_at = coalesce(mijra_at(new.edited_at), old.edited_at),
    deleted_at = coalesce(mijra_at(new.deleted_at), old.deleted_at),
    metadata = old.metadata || coalesce(new.metadata::jsonb, '{}')
FROM unnest(
    $1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[],
    $9::bigint[], $10::bigint[], $11::text[], $12::bigint[], $13::bigint[], $14::text[], $15::boolean[],
    $16::bigint[]
) AS new (
    id, type, content, text, status, platform_message_id, sent_at, delivered_at, read_at, failed_at, error,
    edited_at, deleted_at, metadata, clear_failure, tenant_id
), gate
WHERE old.tenant_id = new.tenant_id AND old.id = new.id;

-- name: patch_attachments
-- Changes to attachments; null leaves a column alone.
UPDATE attachments AS old SET
    state = coalesce(new.state, old.state),
    sha256 = coalesce(new.sha256, old.sha256),
    media_type = coalesce(new.media_type, old.media_type),
    size = coalesce(new.size, old.size),
    storage_key = coalesce(new.storage_key, old.storage_key),
    attempts = coalesce(new.attempts, old.attempts),
    next_try_at = coalesce(mijra_at(new.next_try_at), old.next_try_at),
    error = coalesce(new.error, old.error)
FROM unnest(
    $1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bigint[], $8::bigint[],
    $9::text[], $10::bigint[]
) AS new (
    id, state, sha256, media_type, size, storage_key, attempts, next_try_at, error, tenant_id
), gate
WHERE old.tenant_id = new.tenant_id AND old.id = new.id;

-- name: patch_outbox
-- Changes to outbox items; null leaves a column alone.
UPDATE outbox AS old SET
    updated_at = coalesce(mijra_at(new.updated_at), old.updated_at),
    state = coalesce(new.state, old.state),
    attempts = coalesce(new.attempts, old.attempts),
    not_before = coalesce(mijra_at(new.not_before), old.not_before),
    error = coalesce(new.error::jsonb, old.error),
    payload = coalesce(new.payload::jsonb, old.payload)
FROM unnest(
    $1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::bigint[]
) AS new (
    id, updated_at, state, attempts, not_before, error, payload, tenant_id
), gate
WHERE old.tenant_id = new.tenant_id AND old.id = new.id;

-- name: insert_events
-- The event log; the cursors are the writer's.
INSERT INTO events (
    name, channels, data, trace, at, cursor, tenant_id
)
SELECT
    new.name, new.channels::text[], new.data::json, new.trace, mijra_at(new.at), new.cursor, new.tenant_id
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[]
) AS new (
    name, channels, data, trace, at, cursor, tenant_id
), gate;
