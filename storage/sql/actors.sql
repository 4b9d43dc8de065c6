-- What the tenant's, the assigner's, the timers' and the channels' actors start from, and the event log.

-- name: users
-- The tenant's agents.
SELECT * FROM users WHERE tenant_id = $1;

-- name: channels
-- The tenant's connected accounts.
SELECT * FROM channels WHERE tenant_id = $1;

-- name: tags
-- The tenant's tags.
SELECT * FROM tags WHERE tenant_id = $1;

-- name: automated_replies
-- The tenant's reply rules.
SELECT * FROM automated_replies WHERE tenant_id = $1;

-- name: settings
-- The tenant's settings.
SELECT name, value FROM settings WHERE tenant_id = $1;

-- name: newest_id
-- The highest id that order depends on; 0 before the first.
SELECT greatest(
    (SELECT max(id) FROM conversations WHERE tenant_id = $1),
    (SELECT max(id) FROM messages WHERE tenant_id = $1),
    (SELECT max(id) FROM outbox WHERE tenant_id = $1),
    (SELECT max(id) FROM customer_merges WHERE tenant_id = $1),
    (SELECT max(link_version) FROM customers WHERE tenant_id = $1 AND link_version > 0),
    0
);

-- name: agent_loads
-- Open conversations by agent.
SELECT assigned_to, count(*) AS load FROM conversations
WHERE tenant_id = $1 AND status IN ('new', 'open', 'pending') AND assigned_to IS NOT NULL
GROUP BY assigned_to;

-- name: last_from_pool
-- Who was given a conversation from the pool last.
SELECT to_user_id FROM assignments
WHERE tenant_id = $1 AND by_user_id IS NULL AND kind = 'assign'
ORDER BY id DESC LIMIT 1;

-- name: waiting_conversations
-- Conversations that nobody has, oldest first.
SELECT id AS conversation_id, channel_id, contact_key FROM conversations
WHERE tenant_id = $1 AND assigned_to IS NULL AND status IN ('new', 'open')
ORDER BY id LIMIT $2;

-- name: due_timers
-- Deadlines before $2, the earliest first.
SELECT * FROM timers WHERE tenant_id = $1 AND due_at < mijra_at($2) ORDER BY due_at, id LIMIT $3;

-- name: open_outbox
-- What a channel has still to send, in order.
SELECT * FROM outbox
WHERE tenant_id = $1 AND channel_id = $2 AND id > $3 AND state IN ('queued', 'sending', 'unknown')
ORDER BY id LIMIT $4;

-- name: pending_media
-- Files to be fetched, in order.
SELECT * FROM attachments
WHERE tenant_id = $1 AND id > $2 AND state = 'pending'
ORDER BY id LIMIT $3;

-- name: open_work
-- Whether there is anything to go on with after a start. Walks the open items' index from channel to channel.
WITH RECURSIVE busy (channel_id) AS (
    (
        SELECT channel_id FROM outbox
        WHERE tenant_id = $1 AND state IN ('queued', 'sending', 'unknown')
        ORDER BY channel_id LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT next.channel_id FROM outbox AS next
        WHERE next.tenant_id = $1 AND next.state IN ('queued', 'sending', 'unknown')
            AND next.channel_id > busy.channel_id
        ORDER BY next.channel_id LIMIT 1
    )
    FROM busy WHERE busy.channel_id IS NOT NULL
)
SELECT
    array(SELECT channel_id FROM busy WHERE channel_id IS NOT NULL) AS channel_ids,
    EXISTS (SELECT FROM attachments WHERE tenant_id = $1 AND state = 'pending') AS media,
    EXISTS (SELECT FROM timers WHERE tenant_id = $1) AS timers,
    EXISTS (
        SELECT FROM conversations WHERE tenant_id = $1 AND assigned_to IS NULL AND status IN ('new', 'open')
    ) AS waiting,
    EXISTS (SELECT FROM customer_merges WHERE tenant_id = $1 AND NOT settled) AS merges;

-- name: channel_cursor
-- How far a channel's account was read.
SELECT value FROM channel_cursors WHERE tenant_id = $1 AND channel_id = $2;

-- name: head_of_log
-- The cursor of the last committed event, as the database knows it.
SELECT cursor FROM ownership WHERE tenant_id = $1;

-- name: oldest_event
-- The smallest cursor still held.
SELECT cursor FROM events WHERE tenant_id = $1 ORDER BY cursor LIMIT 1;

-- name: read_events
-- A stretch of the log; with $4, only events that went to one of these channels.
SELECT cursor, name, channels, data::text AS data, trace, at FROM events
WHERE tenant_id = $1 AND cursor > $2 AND ($4::text[] IS NULL OR channels && $4::text[])
ORDER BY cursor LIMIT $3;
