"""The Pusher protocol, version 7, for clients that exist already. This page is for whoever connects one.

`pusher-js`, `laravel-echo` (broadcaster `reverb` or `pusher`) and the server libraries `pusher` of npm, PyPI
and Composer work unmodified. Each tenant has an app: `GET /api/{tenant}/push-app` shows its id, key and
secret to owners and admins. The key is public; the secret is for back ends alone.

Connect
-------
    const echo = new Echo({
      broadcaster: "reverb", key, wsHost, wsPort, forceTLS: false, enabledTransports: ["ws"],
      authEndpoint: "https://…/broadcasting/auth",
      auth: { headers: { Authorization: "Bearer <id>|<secret>" }, params: {} },
    });
    echo.private("conversations.17").listen(".message.received", (event) => …);
    echo.join("conversations.17").here(…).joining(…).leaving(…).whisper("typing", { name });

Channels: the engine's are `private-inbox`, `private-conversations.{id}`, `private-users.{id}`,
`private-campaigns.{id}` and `presence-conversations.{id}`; what is on them and who may listen is as in the
native protocol (`gateway/push/__init__.py`). Their public form is refused: a public channel has no rights to
check. Every other name is the tenant's own, for what its back end publishes; there a private or presence
channel is whatever the back end signs.

`POST /broadcasting/auth` takes the form body that the clients send, or JSON, with a bearer token:
`socket_id`, `channel_name`, and optionally `tenant` (a slug, for users with several), `since` and `names`.
It answers `{"auth", "channel_data"}`, or 403 for what the user may not see. `channel_data` names the user
also on private channels, because the engine looks at rights again when they change. A back end that signs
the engine's channels itself must put `{"user_id": "7"}` into `channel_data`.

A subscription that is refused, or ended because a right was lost, is told by `pusher:subscription_error` on
the channel with `{"type", "error", "status"}`.

Resume
------
Ordinary clients miss what happens while they are away. With this one line, and `params: {}` as above, they
do not:

    echo.connector.pusher.connection.bind("message", ({ channel, data }) =>
      data?.cursor && (echo.options.auth.params[channel] = data.cursor));

Each event's data has a member `cursor`, its place in the tenant's log, and so has the answer to a
subscription; other clients pass over it. The line keeps the last one of each channel among the parameters
that are sent to `/broadcasting/auth` anyway, and the engine goes on from there: everything once and in order,
or `mijra:gap` on the channel with `{"from", "to", "cursor", "refetch": [paths below /api/{tenant}/]}`, which
says what to load instead. Forget a channel's parameter when you leave it for good.

Names
-----
Events are named as in the API: `.message.received` for Echo. With `names=classes` among the auth parameters
they come as `NewMessageReceived`, with `names=laravel` as `App\\Events\\NewMessageReceived`, which is what
`listen("NewMessageReceived")` waits for; events without an older name keep their own.

Client events
-------------
On private and presence channels, 10 per second and connection, to the other Pusher clients there.
`client-typing` on a presence channel is also heard by native clients, and theirs come as `client-typing`.

Publish
-------
    new Pusher({ appId, key, secret, host, port, useTLS }).trigger("private-orders.5", "shipped", { … });

`POST /apps/{id}/events` and `/batch_events`, `GET /apps/{id}/channels`, `/channels/{name}`,
`/channels/{name}/users`, with Pusher's signature. At most 100 channels, 10 events in a batch, 10 KB of data.
What a back end publishes reaches the Pusher clients that are there; it is not in the log and has no cursor.
On the engine's channels it may use any event name but the engine's own: nobody can make a message look
received that was not.

Closed
------
4000-4099: do not come back (4001 no such app, 4003 the tenant is suspended, 4007 and 4008 the protocol's
version, 4009 not allowed, 4010 a message that cannot be read). 4100-4199: come back later. 4200-4299: come
back at once (4201 no pong came). A client event over its rate is refused with the error 4301, and the
connection goes on."""
