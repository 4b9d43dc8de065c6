-- Customers as persons: for the actor that merges them, and for the API.

-- name: persons
-- The persons that customers are part of: up the merges that stand to the one who survives, and down to all that were
-- merged into it. Lateral with barriers, so that each step is one look-up whatever the planner knows of the table.
WITH RECURSIVE up (position, id, depth) AS (
    SELECT asked.position, asked.id, 0
    FROM unnest($2::bigint[]) WITH ORDINALITY AS asked (id, position)
    UNION ALL
    SELECT up.position, above.survivor_id, up.depth + 1
    FROM up CROSS JOIN LATERAL (
        SELECT one.survivor_id FROM customer_merges AS one
        WHERE one.tenant_id = $1 AND one.merged_id = up.id AND one.undone_at IS NULL
        LIMIT 1
    ) AS above
    WHERE up.depth < $3::integer
), roots AS (
    SELECT DISTINCT ON (position) position, id FROM up ORDER BY position, depth DESC
), members (position, id, depth) AS (
    SELECT position, id, 0 FROM roots
    UNION ALL
    SELECT members.position, below.merged_id, members.depth + 1
    FROM members CROSS JOIN LATERAL (
        SELECT one.merged_id FROM customer_merges AS one
        WHERE one.tenant_id = $1 AND one.survivor_id = members.id AND one.undone_at IS NULL
        OFFSET 0
    ) AS below
    WHERE members.depth < $3::integer
)
SELECT members.position, customer.*, merge.id AS merge_id, merge.survivor_id, merge.by_user_id,
    merge.created_at AS merge_created_at, merge.settled, place.channel_id, place.contact_key
FROM members
CROSS JOIN LATERAL (
    SELECT one.* FROM customers AS one WHERE one.tenant_id = $1 AND one.id = members.id LIMIT 1
) AS customer
LEFT JOIN LATERAL (
    SELECT one.* FROM customer_merges AS one
    WHERE one.tenant_id = $1 AND one.merged_id = members.id AND one.undone_at IS NULL
    LIMIT 1
) AS merge ON true
LEFT JOIN LATERAL (
    SELECT one.channel_id, one.contact_key FROM customer_handles AS one
    WHERE one.tenant_id = $1 AND one.customer_id = members.id
    LIMIT 1
) AS place ON true
ORDER BY members.position, members.depth, members.id;

-- name: unsettled_merges
-- Merges that customers' rows may not show yet, oldest first.
SELECT * FROM customer_merges WHERE tenant_id = $1 AND NOT settled ORDER BY id LIMIT $2;

-- name: customers
-- A page of persons, newest first, with the conditions that take the mark's place.
SELECT c.* FROM customers AS c
WHERE c.tenant_id = $1 AND c.id < $2 AND c.merged_into IS NULL /*and*/
ORDER BY c.id DESC LIMIT $3;

-- name: search_condition
-- Persons one of whose customers has the words; the last word may be a beginning. Reads the tenant's customers, as the
-- inbox's search does.
c.id IN (
    WITH words AS (
        SELECT websearch_to_tsquery('simple', mijra_fold(/*words*/)) && to_tsquery('simple', mijra_fold(/*beginning*/)) AS wanted
    )
    SELECT coalesce(who.merged_into, who.id) FROM customers AS who
    WHERE who.tenant_id = $1 AND (SELECT wanted FROM words) @@
        mijra_words(who.name || ' ' || coalesce(ltrim(who.phone, '+'), '') || ' ' || coalesce(who.email, ''))
)

-- name: customers_by_id
-- Some customers.
SELECT * FROM customers WHERE tenant_id = $1 AND id = ANY ($2::bigint[]);

-- name: members
-- A person's customers, the one who survives first.
(SELECT c.* FROM customers AS c WHERE c.tenant_id = $1 AND c.id = $2)
UNION ALL
(SELECT c.* FROM customers AS c WHERE c.tenant_id = $1 AND c.merged_into = $2 ORDER BY c.id LIMIT $3);

-- name: handles_of
-- The handles of customers.
SELECT customer_id, platform, channel_id, external_id, display FROM customer_handles
WHERE tenant_id = $1 AND customer_id = ANY ($2::bigint[]);

-- name: conversations_of
-- The newest conversations of customers ($2), by way of their contacts; with $3, only what that agent may see.
SELECT c.*, coalesce(who.shown_name, who.name) AS customer_name, who.merged_into AS customer_merged_into,
    CASE WHEN who.merged_into IS NULL THEN who.avatar_url ELSE who.shown_avatar_url END AS customer_avatar
FROM (
    SELECT DISTINCT channel_id, contact_key FROM customer_handles
    WHERE tenant_id = $1 AND customer_id = ANY ($2::bigint[])
) AS contact
CROSS JOIN LATERAL (
    SELECT one.* FROM conversations AS one
    WHERE one.tenant_id = $1 AND one.channel_id = contact.channel_id AND one.contact_key = contact.contact_key
        AND ($3::bigint IS NULL OR one.assigned_to = $3::bigint OR one.assigned_to IS NULL)
    ORDER BY one.id DESC
    LIMIT $4
) AS c
JOIN customers AS who ON who.tenant_id = $1 AND who.id = c.customer_id
ORDER BY c.active_at DESC, c.id DESC LIMIT $4;

-- name: conversation_counts_of
-- How many there are of them, counted up to $4 for each contact.
SELECT count(*) AS total, count(*) FILTER (WHERE c.status IN ('new', 'open', 'pending')) AS open,
    count(*) FILTER (WHERE c.unread_count > 0) AS unread
FROM (
    SELECT DISTINCT channel_id, contact_key FROM customer_handles
    WHERE tenant_id = $1 AND customer_id = ANY ($2::bigint[])
) AS contact
CROSS JOIN LATERAL (
    SELECT one.status, one.unread_count FROM conversations AS one
    WHERE one.tenant_id = $1 AND one.channel_id = contact.channel_id AND one.contact_key = contact.contact_key
        AND ($3::bigint IS NULL OR one.assigned_to = $3::bigint OR one.assigned_to IS NULL)
    ORDER BY one.id DESC
    LIMIT $4
) AS c;

-- name: candidates
-- Customers of other persons than $2 with one of these telephone numbers or e-mail addresses (small letters), at most
-- $5 for each.
(
    SELECT c.* FROM customers AS c
    WHERE c.tenant_id = $1 AND c.phone = ANY ($3::text[]) AND coalesce(c.merged_into, c.id) <> $2
    LIMIT $5
)
UNION
(
    SELECT c.* FROM customers AS c
    WHERE c.tenant_id = $1 AND c.email_key = ANY ($4::text[]) AND coalesce(c.merged_into, c.id) <> $2
    LIMIT $5
);

-- name: merges
-- A page of all merges, newest first.
SELECT * FROM customer_merges WHERE tenant_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3;

-- name: merges_of
-- A page of those that a customer has a part in.
(SELECT * FROM customer_merges WHERE tenant_id = $1 AND id < $2 AND survivor_id = $4 ORDER BY id DESC LIMIT $3)
UNION ALL
(SELECT * FROM customer_merges WHERE tenant_id = $1 AND id < $2 AND merged_id = $4 ORDER BY id DESC LIMIT $3)
ORDER BY id DESC LIMIT $3;
