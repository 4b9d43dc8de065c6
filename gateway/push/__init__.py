"""Push: committed events to agents' screens. This page is for whoever writes a client.

Connect
-------
Open a WebSocket to `/ws` and speak JSON in text frames. The first message, within 10 seconds:

    → {"type": "auth", "token": "<id>|<secret>", "tenant": "acme"}
    ← {"type": "welcome", "epoch": "…", "cursor": 4711, "session": "…", "user_id": 7,
       "silence_seconds_max": 75}

The token goes into a message and not into the URL, because URLs are logged on the way. Who can say nothing
first makes a ticket, `POST /api/{tenant}/push-tickets`, and opens `/ws?ticket=…`: it is good once and for 30
seconds (or says `{"type": "auth", "ticket": "…"}`).

Say something at least every `silence_seconds_max` seconds; `{"type": "ping"}` every 30 seconds is answered by
`{"type": "pong"}`, and a client that misses the answer knows that the connection is dead.

Listen
------
    → {"type": "subscribe", "channel": "conversations.42", "since": 4650}
    ← {"type": "subscribed", "channel": "conversations.42", "cursor": 4650}
    ← {"type": "event", "cursor": 4660, "channel": "conversations.42", "name": "message.received",
       "data": {…}, "trace": "…", "at": "2026-03-01T09:00:00.123Z"}

    inbox                        everything of the tenant; for those who may see all conversations
    conversations.{id}           one conversation
    users.{id}                   one's own: assignments, notices
    campaigns.{id}               a campaign's progress
    presence-conversations.{id}  who is looking at a conversation, who is typing

`unsubscribe {channel}` is answered by `unsubscribed {channel}`. What may not be listened to is answered by
`error {code, message, channel}`, and the connection goes on. Rights are checked again when roles or
assignments change, and when tokens end; a channel that is lost is announced by the same `error`. With `names`
in the subscribe message, `"classes"` or `"laravel"`, events come under the class names of older systems.

Resume
------
Each event of a tenant has one cursor, rising in the order of commits. One event can be on several channels
and is then sent once for each, so **keep the last cursor per channel**. After a lost connection, subscribe
with `since` = that cursor: everything after it comes once and in order, from memory or from the database,
and then what is new. Without `since`, only what is new.

    ← {"type": "gap", "channel": "inbox", "from": 4651, "to": 4655, "refetch": ["conversations"]}

says that these cursors are no longer held, or that fetching anew is cheaper than so long a replay: load what
`refetch` names, paths below `/api/{tenant}/`; what follows the gap goes on from there. A `welcome` with
another `epoch` than last time means that the log started anew: forget all cursors. The same log by pull is
`GET /api/{tenant}/events?since=`, which with `wait=25` answers when there is something, or after 25 seconds.

To open a view without a race: subscribe without `since`, wait for `subscribed`, fetch the view by the API,
then apply the events. An event that the fetched view contains already has the same effect again.

Customers
---------
A conversation's `customer` is whom it shows: `{id, name, avatar_url, merged_id}`. Where its own customer was
merged into another, `id` is the one who survives and `merged_id` the own one. Conversations that change
nothing else are not told one by one: on the inbox, `customer.updated`, `customer.merged` and
`customer.unmerged` carry the `customer`, and every conversation whose own customer he is (`merged_id`, else
`id`) shows `customer.merged_into` from then on, with `merged_id`, or `customer` himself where that is null.
The contact's newest conversation is told as well, by `conversation.updated` on its own channels.

Others
------
On `presence-conversations.{id}`: who has come is told who is there, and then who comes and goes.

    ← {"type": "presence", "channel": "presence-conversations.42", "users": [{"user_id": 7, "name": "Noor"}]}
    ← {"type": "presence.changed", "channel": "…", "joined": [{"user_id": 8, "name": "Mei"}], "left": []}
    → {"type": "typing", "channel": "presence-conversations.42", "state": true}
    ← {"type": "typing", "channel": "presence-conversations.42", "user_ids": [8]}

`typing` names all who type now, the latest five at most, oneself among them. Say it again every few seconds
while somebody types: after six it ends by itself. Changes are told together, a quarter of a second to some
seconds late in a crowd; who was lost without a word is told as gone after three seconds. Nothing of this is
stored or has a cursor, and Pusher's clients are in the same room. `ack` is optional: it shows operators how
far behind a client is.

Closed
------
Close codes (`gateway/push/codes.py`) advise by range: 4000-4099 do not come back unchanged, 4100-4199 come
back later with growing pauses, 4200-4299 come back at once and resume. A client that reads too slowly is
closed with 4201 or 4202 and loses nothing by it. A connection lost without a code: come back with growing
pauses.

Limits: 16 KiB per message, 200 messages at once and 20 per second, 200 subscriptions per connection, 5000
connections per tenant.

Inside
------
`hub` holds rings and subscriptions and argues why nothing is missed; `presence` holds who is there; `frames`
encodes. `session` is what a connection of any protocol does, `native` the native one with its messages in
`protocol` and its ends in `codes`, `pusher` the other. A session knows no transport: `connection` is the port
between them, `queued` with its `queue` the transport that sends one frame after another; a lane that writes
shared frames straight to sockets is another `Connection`. `rights` is what sessions ask about people,
`tickets` lets them in once, `news` wakes who waits for the log by pull."""
