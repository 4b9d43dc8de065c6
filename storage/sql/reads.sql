-- What the API reads. Every statement names the tenant besides row-level security, because the keys of all
-- indexes begin with it.

-- name: inbox_branch
-- The newest conversations that meet the conditions which take the mark's place.
(SELECT c.* FROM conversations AS c WHERE c.tenant_id = $1 /*and*/ ORDER BY c.active_at DESC, c.id DESC LIMIT $2)

-- name: inbox
-- The newest of the branches' conversations, with their customers.
SELECT c.*, coalesce(who.shown_name, who.name) AS customer_name, who.merged_into AS customer_merged_into,
    CASE WHEN who.merged_into IS NULL THEN who.avatar_url ELSE who.shown_avatar_url END AS customer_avatar
FROM (/*branches*/) AS c
JOIN customers AS who ON who.tenant_id = $1 AND who.id = c.customer_id
ORDER BY c.active_at DESC, c.id DESC LIMIT $2;

-- name: search_condition
-- Conversations whose customer or one of whose messages has the words; the last word may be a beginning. Evaluated
-- once for the whole inbox, so it must not refer to a conversation's columns. Row-level security keeps PostgreSQL
-- from using the full-text indexes here (their operators are not leakproof), so it reads the tenant's texts.
c.id IN (
    WITH words AS (
        SELECT websearch_to_tsquery('simple', mijra_fold(/*words*/)) && to_tsquery('simple', mijra_fold(/*beginning*/)) AS wanted
    )
    SELECT found.id FROM customers AS who
    JOIN conversations AS found ON found.tenant_id = who.tenant_id AND found.customer_id = who.id
    WHERE who.tenant_id = $1 AND (SELECT wanted FROM words) @@
        mijra_words(
            who.name || ' ' || coalesce(who.shown_name, '') || ' ' || coalesce(ltrim(who.phone, '+'), '')
            || ' ' || coalesce(who.email, '')
        )
    UNION
    SELECT said.conversation_id FROM messages AS said
    WHERE said.tenant_id = $1 AND said.text <> '' AND (SELECT wanted FROM words) @@ mijra_words(said.text)
)

-- name: conversation
-- One conversation with its customer.
SELECT c.*, coalesce(who.shown_name, who.name) AS customer_name, who.merged_into AS customer_merged_into,
    CASE WHEN who.merged_into IS NULL THEN who.avatar_url ELSE who.shown_avatar_url END AS customer_avatar
FROM conversations AS c
JOIN customers AS who ON who.tenant_id = c.tenant_id AND who.id = c.customer_id
WHERE c.tenant_id = $1 AND c.id = $2;

-- name: conversation_statistics
-- Counts by status and platform; with $2, only of what that agent may see.
SELECT status, platform, count(*) AS total, count(*) FILTER (WHERE unread_count > 0) AS unread,
    count(*) FILTER (WHERE assigned_to IS NULL) AS unassigned
FROM conversations
WHERE tenant_id = $1 AND ($2::bigint IS NULL OR assigned_to = $2::bigint OR assigned_to IS NULL)
GROUP BY status, platform;

-- name: places
-- Where conversations' actors are.
SELECT id AS conversation_id, channel_id, contact_key, assigned_to, status,
    first_response_at IS NOT NULL AS answered
FROM conversations
WHERE tenant_id = $1 AND id = ANY ($2::bigint[]);

-- name: message_place
-- Where a message's conversation's actor is.
SELECT m.id AS message_id, c.id AS conversation_id, c.channel_id, c.contact_key, c.assigned_to, c.status,
    c.first_response_at IS NOT NULL AS answered
FROM messages AS m
JOIN conversations AS c ON c.tenant_id = m.tenant_id AND c.id = m.conversation_id
WHERE m.tenant_id = $1 AND m.id = $2;

-- name: messages_before
-- A page of a conversation's history, newest first.
SELECT * FROM messages WHERE tenant_id = $1 AND conversation_id = $2 AND seq < $3 ORDER BY seq DESC LIMIT $4;

-- name: messages_after
-- A page of what came after a sequence number, oldest first.
SELECT * FROM messages WHERE tenant_id = $1 AND conversation_id = $2 AND seq > $3 ORDER BY seq LIMIT $4;

-- name: message
-- One message.
SELECT * FROM messages WHERE tenant_id = $1 AND id = $2;

-- name: attachments_of
-- The attachments of messages, in order.
SELECT * FROM attachments WHERE tenant_id = $1 AND message_id = ANY ($2::bigint[]) ORDER BY message_id, id;

-- name: notes
-- A page of a conversation's notes, newest first; deleted ones are not shown.
SELECT * FROM notes
WHERE tenant_id = $1 AND conversation_id = $2 AND id < $3 AND deleted_at IS NULL
ORDER BY id DESC LIMIT $4;

-- name: note
-- One note, unless it was deleted.
SELECT * FROM notes WHERE tenant_id = $1 AND id = $2 AND conversation_id = $3 AND deleted_at IS NULL;

-- name: transfers
-- A page of a conversation's assignments and transfers, newest first.
SELECT * FROM assignments WHERE tenant_id = $1 AND conversation_id = $2 AND id < $3 ORDER BY id DESC LIMIT $4;

-- name: attachment
-- One attachment.
SELECT * FROM attachments WHERE tenant_id = $1 AND id = $2;

-- name: file
-- One uploaded file.
SELECT * FROM files WHERE tenant_id = $1 AND id = $2;

-- name: claim_key
-- Claims a key that is new, has expired ($6), or whose call never ended ($7); else answers what is known of it.
-- A key that another call claims at this very moment gives neither: that call is running.
WITH claimed AS (
    INSERT INTO idempotency_keys AS known (tenant_id, user_id, key, request, created_at)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (tenant_id, user_id, key) DO UPDATE
    SET request = excluded.request, status = NULL, answer = NULL, created_at = excluded.created_at
    WHERE known.created_at < $6::timestamptz OR (known.status IS NULL AND known.created_at < $7::timestamptz)
    RETURNING key
)
SELECT EXISTS (SELECT FROM claimed) AS claimed, old.request, old.status, old.answer
FROM (SELECT) AS once
LEFT JOIN idempotency_keys AS old ON old.tenant_id = $1 AND old.user_id = $2 AND old.key = $3;

-- name: keep_answer
-- The first answer, for whoever asks again.
UPDATE idempotency_keys SET status = $4, answer = $5 WHERE tenant_id = $1 AND user_id = $2 AND key = $3;

-- name: release_key
-- The call had no effect: the key is free again.
DELETE FROM idempotency_keys WHERE tenant_id = $1 AND user_id = $2 AND key = $3 AND status IS NULL;
