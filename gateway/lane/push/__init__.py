"""The push lane: the short way from a connection on the public port to a push session.

Why      A frame through Quart, ASGI and Hypercorn costs some thirty times what the kernel's `send` costs, and
         an idle WebSocket there keeps its tasks, queues and parsers. Here a frame is one shared bytes object
         and one system call for each reader, and an idle connection is one parked task.

Whose    A handshake is the lane's if its target is plainly `/ws` or `/app/{key}`, if it is sound to the
         letter, and if the sessions know the path. Everything else goes to Hypercorn with every byte of it
         unread, and is answered there as if there were no lane. An accepted WebSocket stays in the lane to
         its end.

How      `upgrade` (beside this package) reads the handshake; `incoming` what the client sends, by wsproto;
         `socket` is one connection; `sender` the one task that sends for all; `wire` encodes; `lane` puts
         them together. What is offered in one turn of the loop is sent in the next: in slices, so that a
         publication to thousands holds nobody up, and joined, so that a batch of commits costs one call.

Promises Frames whole and in order. A client that reads too slowly is closed with 4201 or 4202, nobody waits
         for it, and it resumes without a loss. One that dribbles, stalls, half-closes or floods holds its
         own bounded memory and nothing else.
Limits   `lane.PushLaneLimits`, `incoming.IncomingLimits`, `socket.SocketLimits`; for what waits for a slow
         reader `gateway.push.session.SessionLimits`.
Leaves   what is said to the sessions; the number of connections, listening and shutdown to `gateway.serving`.

Differences from the plain route, all deliberate:

1.  A message over twice the session's limit is refused with 1009; Hypercorn collects 64 KiB first.
2.  Pings, pongs and fragments have a budget (1008), since each costs what a message does.
3.  A handshake that dribbles gets 408, one that is too large 431, a foreign origin 403 in the envelope.
4.  No compression, whatever the client offers; Hypercorn compresses for those who offer it.
"""
