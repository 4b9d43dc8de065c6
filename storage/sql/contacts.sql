-- What conversations' actors are loaded from. Each statement serves a whole batch of requests: `position`
-- is the request's place in the batch.

-- name: handles
-- All handles of each contact that one of the asked keys belongs to; `rank` is that key's place in its request.
-- Lateral, with barriers (LIMIT, OFFSET 0), so that each request is two lookups. As plain joins they were one cross
-- product of requests and handles for as long as nobody had analyzed the table: 1.2 s for 32 requests among 750.
SELECT asked.position, asked.rank, handle.*
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[])
    AS asked (position, rank, tenant_id, channel_id, key)
CROSS JOIN LATERAL (
    SELECT one.contact_key FROM customer_handles AS one
    WHERE one.tenant_id = asked.tenant_id AND one.channel_id = asked.channel_id AND one.external_id = asked.key
    LIMIT 1
) AS known
CROSS JOIN LATERAL (
    SELECT one.* FROM customer_handles AS one
    WHERE one.tenant_id = asked.tenant_id AND one.channel_id = asked.channel_id
        AND one.contact_key = known.contact_key
    OFFSET 0
) AS handle
ORDER BY asked.position, asked.rank, handle.created_at, handle.external_id;

-- name: customers
-- The customers of the batch, whether others were merged into them, and whom they were merged into.
SELECT asked.position, customer.*, EXISTS (
    SELECT FROM customers AS other
    WHERE other.tenant_id = asked.tenant_id AND other.merged_into = asked.id
) AS shared, root.name AS root_name, root.avatar_url AS root_avatar_url
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS asked (position, tenant_id, id)
JOIN customers AS customer ON customer.tenant_id = asked.tenant_id AND customer.id = asked.id
LEFT JOIN LATERAL (
    SELECT one.name, one.avatar_url FROM customers AS one
    WHERE one.tenant_id = customer.tenant_id AND one.id = customer.merged_into
    LIMIT 1
) AS root ON customer.merged_into IS NOT NULL;

-- name: newest_conversations
-- Each contact's open conversation, else its newest, and how many it has, counted up to $5.
SELECT asked.position, found.*, (
    SELECT count(*) FROM (
        SELECT FROM conversations AS one
        WHERE one.tenant_id = asked.tenant_id AND one.channel_id = asked.channel_id
            AND one.contact_key = asked.contact_key
        LIMIT $5::bigint
    ) AS counted
) AS conversations
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[])
    AS asked (position, tenant_id, channel_id, contact_key)
CROSS JOIN LATERAL (
    SELECT one.* FROM conversations AS one
    WHERE one.tenant_id = asked.tenant_id AND one.channel_id = asked.channel_id
        AND one.contact_key = asked.contact_key
    ORDER BY one.status IN ('new', 'open', 'pending') DESC, one.id DESC
    LIMIT 1
) AS found;

-- name: newest_messages
-- Each contact's $6 newest messages, over its $5 newest conversations, newest first.
SELECT asked.position, found.*
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[])
    AS asked (position, tenant_id, channel_id, contact_key)
CROSS JOIN LATERAL (
    SELECT message.*
    FROM (
        SELECT one.tenant_id, one.id FROM conversations AS one
        WHERE one.tenant_id = asked.tenant_id AND one.channel_id = asked.channel_id
            AND one.contact_key = asked.contact_key
        ORDER BY one.id DESC
        LIMIT $5::bigint
    ) AS conversation
    CROSS JOIN LATERAL (
        SELECT one.id, one.conversation_id, one.seq, one.direction, one.status,
            CASE one.sender_type WHEN 'user' THEN 'user:' || one.sender_id ELSE one.sender_type END AS author,
            one.platform_message_id, one.client_key, one.platform_at, one.sent_at, one.delivered_at, one.read_at,
            one.failed_at, one.edited_at, one.deleted_at, one.created_at, one.trace
        FROM messages AS one
        WHERE one.tenant_id = conversation.tenant_id AND one.conversation_id = conversation.id
        ORDER BY one.seq DESC
        LIMIT $6::bigint
    ) AS message
    ORDER BY message.id DESC
    LIMIT $6::bigint
) AS found
ORDER BY asked.position, found.id DESC;

-- name: messages_by_platform_id
-- Messages of a channel by the platform's id.
SELECT asked.position, message.*
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[]) AS asked (position, tenant_id, channel_id, key)
JOIN messages AS message
    ON message.tenant_id = asked.tenant_id AND message.channel_id = asked.channel_id
    AND message.platform_message_id = asked.key;

-- name: messages_by_id
-- Messages of a channel by our id.
SELECT asked.position, message.*
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) AS asked (position, tenant_id, channel_id, key)
JOIN messages AS message
    ON message.tenant_id = asked.tenant_id AND message.id = asked.key AND message.channel_id = asked.channel_id;

-- name: messages_by_client_key
-- Messages of a conversation by the sender's key.
SELECT asked.position, message.*
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[])
    AS asked (position, tenant_id, channel_id, conversation_id, key)
JOIN messages AS message
    ON message.tenant_id = asked.tenant_id AND message.conversation_id = asked.conversation_id
    AND message.client_key = asked.key AND message.channel_id = asked.channel_id;

-- name: messages_to_move
-- Our newest messages to a contact whose status a watermark may move, or which wait to be sent to who has opted out
-- (`named` false), looked for among the newest 500 of its three newest conversations: no index holds statuses, and
-- a mark that old is not worth one.
SELECT asked.position, found.*
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::boolean[])
    AS asked (position, tenant_id, channel_id, contact_key, statuses, most, named)
CROSS JOIN LATERAL (
    SELECT message.*
    FROM (
        SELECT one.tenant_id, one.id FROM conversations AS one
        WHERE one.tenant_id = asked.tenant_id AND one.channel_id = asked.channel_id
            AND one.contact_key = asked.contact_key
        ORDER BY one.id DESC
        LIMIT 3
    ) AS conversation
    CROSS JOIN LATERAL (
        SELECT one.id, one.conversation_id, one.seq, one.direction, one.status,
            CASE one.sender_type WHEN 'user' THEN 'user:' || one.sender_id ELSE one.sender_type END AS author,
            one.platform_message_id, one.client_key, one.platform_at, one.sent_at, one.delivered_at, one.read_at,
            one.failed_at, one.edited_at, one.deleted_at, one.created_at, one.trace
        FROM messages AS one
        WHERE one.tenant_id = conversation.tenant_id AND one.conversation_id = conversation.id
        ORDER BY one.seq DESC
        LIMIT 500
    ) AS message
    WHERE message.direction = 'outbound' AND (message.platform_message_id IS NOT NULL OR NOT asked.named)
        AND message.status = ANY (string_to_array(asked.statuses, ','))
    ORDER BY message.id DESC
    LIMIT asked.most
) AS found
ORDER BY asked.position, found.id DESC;

-- name: attachments_of
-- The attachments of these messages, in order.
SELECT asked.position, attachment.*
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS asked (position, tenant_id, message_id)
JOIN attachments AS attachment
    ON attachment.tenant_id = asked.tenant_id AND attachment.message_id = asked.message_id
ORDER BY asked.position, attachment.id;

-- name: last_outbox_of
-- The newest outbox item of each of these messages.
SELECT asked.position, found.*
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS asked (position, tenant_id, message_id)
CROSS JOIN LATERAL (
    SELECT one.* FROM outbox AS one
    WHERE one.tenant_id = asked.tenant_id AND one.message_id = asked.message_id
    ORDER BY one.id DESC
    LIMIT 1
) AS found;

-- name: conversations_by_id
-- Conversations by id.
SELECT asked.position, conversation.*
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS asked (position, tenant_id, id)
JOIN conversations AS conversation
    ON conversation.tenant_id = asked.tenant_id AND conversation.id = asked.id;
