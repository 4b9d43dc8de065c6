"""The webhook lane: the short way from a connection on the public port to `gateway.webhooks.Webhooks.handle`.

Why      A webhook through Hypercorn, ASGI and Quart costs several times what its handling costs. Platforms
         post to a handful of addresses in one form, so that form is read here straight from the socket, and
         everything else goes the ordinary way.

Whose    A request is the lane's if its bytes begin with `POST /api/webhooks/` and its target is plain: one or
         two segments of letters, digits, `-` and `_`, and perhaps a query. Everything else (other methods
         and spellings, GET handshakes, percent-encoded or dotted paths, absolute-form targets, upgrades) is
         handed to Hypercorn with every byte of it unread, so that there is one router and not two that might
         read an odd address differently.
         A connection may alternate. Whoever has it looks at the first bytes after each answer: the lane hands
         over when a request is not its own, and `gateway.serving` lends the connection back to the lane when
         Hypercorn stands between two requests with nothing buffered and the next bytes are the lane's.

Promises Answers in the order of the requests, each byte-for-byte what the Quart route would answer, apart
         from the differences below. No request is read past its end, so that what follows it is seen by
         exactly one parser. A connection costs one task and one cancel scope; a request that arrives whole
         costs neither (`poller`).
Limits   `shared.LaneLimits`: bytes and seconds of heads and bodies, idleness, bytes being read on all
         connections together.
Leaves   the number of connections, the listening and the shutdown to `gateway.serving`; what a webhook means
         to `gateway.webhooks`.

Differences from the plain route, all deliberate, each held by `tests/gateway/test_lane_differential.py`:

1.  What RFC 9112 lets a server refuse or repair is refused: Content-Length beside Transfer-Encoding (6.3),
    repeated equal Content-Lengths (6.3), Transfer-Encoding in HTTP/1.0 (6.1), lines that end in a bare LF
    (2.2), folded header lines (5.2); likewise control characters in values (RFC 9110, 5.5) and versions that
    nobody speaks. h11 repairs or ignores these; a proxy before us may do otherwise, and that disagreement is
    what request smuggling lives on.
2.  A refusal of broken framing carries our envelope. Hypercorn's has no body, since the application never
    heard of the request. Where a list of transfer codings is wrong in itself, it is 400 and not 501.
3.  A head that has begun is complete within `head_seconds_max` or gets 408. Hypercorn waits for its idle time
    and closes without a word.
4.  A head over `head_bytes_max` gets 431 however it arrives. h11 lets one pass that arrives in one piece.
5.  Chunks that are mostly framing are refused (`chunked.ChunkedBody`).
6.  A body announced as too large gets 413 without `100 Continue` first.
7.  A client that shuts its sending side after the request gets its answer. Hypercorn takes this for a hang-up
    and cancels the handler.

Files: `webhook_lane` has the connections and `shared` what they share. `parser` reads a head, `chunked` a
chunked body, `answer` writes, `connection` does the I/O; between two requests it is `parked`. `poller`
reads what arrives and `line` says whose turn it is; `refusing` is who is not let in under overload. `parting`
ends a connection with a reason. `lanes` is what all lanes have in common; the other one, for WebSockets, is
`push`, and its handshake `upgrade`.
"""
