"""Close codes: why a WebSocket was closed, and whether to come back. Stable numbers, part of the contract.

The range carries the advice, so that a client needs no table:

    4000-4099   do not come back unchanged: the token, the tenant or the client itself is the problem
    4100-4199   come back later: wait a second or more, doubling with jitter, then resume
    4200-4299   come back at once and resume with the last cursors; nothing is lost

(Pusher's protocol divides its codes in the same way, so both protocols can be read with one rule.) Codes
below 4000 are the WebSocket protocol's own (RFC 6455, section 7.4.1).
"""

from enum import IntEnum

from engine.errors import Forbidden, NotFound, RateLimited, Rejected, Unauthenticated, Unavailable


class CloseCode(IntEnum):
    """`CloseCode.X.reason` is the sentence that travels in the close frame."""

    NORMAL = 1000

    UNAUTHENTICATED = 4001
    FORBIDDEN = 4002
    BAD_MESSAGE = 4003
    AUTH_TIMEOUT = 4004
    REVOKED = 4005

    OVER_CAPACITY = 4100
    RATE_LIMITED = 4101
    UNAVAILABLE = 4102
    INTERNAL = 4103

    GOING_AWAY = 4200
    SLOW_BYTES = 4201
    SLOW_AGE = 4202
    SILENT = 4203

    @property
    def reason(self) -> str:
        return _REASONS[self]

    @property
    def comes_back(self) -> bool:
        """Whether the same client may connect again without a change."""
        return self >= 4100


_REASONS = {
    CloseCode.NORMAL: "Goodbye.",
    CloseCode.UNAUTHENTICATED: "The token is not valid.",
    CloseCode.FORBIDDEN: "The token does not open this tenant.",
    CloseCode.BAD_MESSAGE: "A message was not understood or too large.",
    CloseCode.AUTH_TIMEOUT: "No auth message came in time.",
    CloseCode.REVOKED: "The token was revoked or the account closed.",
    CloseCode.OVER_CAPACITY: "Too many connections. Come back later.",
    CloseCode.RATE_LIMITED: "Too many messages. Come back later.",
    CloseCode.UNAVAILABLE: "Temporarily unavailable. Come back later and resume.",
    CloseCode.INTERNAL: "Something went wrong on our side. Come back later and resume.",
    CloseCode.GOING_AWAY: "The server is going away. Reconnect and resume.",
    CloseCode.SLOW_BYTES: "Reading too slowly, too much is waiting. Reconnect and resume.",
    CloseCode.SLOW_AGE: "Reading too slowly, waiting for too long. Reconnect and resume.",
    CloseCode.SILENT: "Nothing was heard for too long. Reconnect and resume.",
}


class PusherCode(IntEnum):
    """What Pusher's protocol says in its own numbers where `CloseCode` has no better one."""

    NO_SUCH_APP = 4001
    SUSPENDED = 4003
    BAD_VERSION = 4007
    NO_VERSION = 4008
    NOT_ALLOWED = 4009
    BAD_MESSAGE = 4010
    NO_PONG = 4201

    @property
    def reason(self) -> str:
        return _PUSHER_REASONS[self]


_PUSHER_REASONS = {
    PusherCode.NO_SUCH_APP: "There is no app with this key.",
    PusherCode.SUSPENDED: "This tenant is suspended.",
    PusherCode.BAD_VERSION: "This version of the protocol is not spoken here; 7 is.",
    PusherCode.NO_VERSION: "The URL names no version of the protocol: protocol=7.",
    PusherCode.NOT_ALLOWED: "Not allowed.",
    PusherCode.BAD_MESSAGE: "A message was not understood or too large.",
    PusherCode.NO_PONG: "No pong came. Reconnect and resume.",
}


def close_code_of(error: BaseException) -> CloseCode:
    """The code for a connection that ends in `error`, by the error's family."""
    if isinstance(error, Unauthenticated):
        return CloseCode.UNAUTHENTICATED
    if isinstance(error, Forbidden | NotFound):
        return CloseCode.FORBIDDEN
    if isinstance(error, Rejected):
        return CloseCode.BAD_MESSAGE
    if isinstance(error, RateLimited):
        return CloseCode.RATE_LIMITED
    if isinstance(error, Unavailable):
        return CloseCode.UNAVAILABLE
    return CloseCode.INTERNAL
