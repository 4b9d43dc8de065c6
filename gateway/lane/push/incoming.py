"""What a client sends, from bytes to whole text messages. Pure; wsproto reads the frames.

wsproto holds to RFC 6455: masks, opcodes, lengths, order of fragments, control frames, close codes and UTF-8.
It bounds nothing, so the bounds are here.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, ParseFailed

_PARTS_MAX: Final = 64
"""Pieces of a message before they are joined: a message that dribbles in costs its characters and no more."""


class Refused(Exception):
    """What came is not taken; the connection is closed with `code` of RFC 6455, section 7.4.1."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Ping(Struct, frozen=True):
    """To be answered with the same payload."""

    payload: bytes


class Closing(Struct, frozen=True):
    """Their close frame; 1005 stands for one without a code."""

    code: int


class IncomingLimits(Struct, frozen=True, kw_only=True):
    """`message_characters_max`: twice what a session takes, so that it is the session that refuses, with a
    code that says more. `frames_burst` and `frames_per_second` are for frames that bring no message (pings,
    fragments): browsers ping seldom and cut nothing up, and each one costs us what a message does."""

    message_characters_max: int = 16 * 1024
    frames_burst: int = 200
    frames_per_second: float = 20.0


class Incoming:
    """Feed it, then take until it says None. After Refused or Closing it is done with."""

    __slots__ = ("_budget", "_budget_at", "_clock", "_frames", "_length", "_limits", "_parts")

    def __init__(self, limits: IncomingLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._frames = FrameProtocol(client=False, extensions=[])
        self._parts: list[str] = []
        self._length = 0
        self._budget = float(limits.frames_burst)
        self._budget_at = clock()

    def feed(self, data: bytes) -> None:
        self._frames.receive_bytes(data)

    def take(self) -> str | Ping | Closing | None:
        """The next message or control frame; None when more bytes are needed first. Raises Refused."""
        try:
            for frame in self._frames.received_frames():
                payload = frame.payload
                match frame.opcode:
                    case Opcode.TEXT:
                        assert isinstance(payload, str)
                        if frame.message_finished and not self._parts:
                            self._within(len(payload))
                            return payload
                        self._collect(payload)
                        if frame.message_finished:
                            return self._joined()
                        if frame.frame_finished:
                            self._spend()
                    case Opcode.PING:
                        self._spend()
                        assert isinstance(payload, bytes | bytearray)
                        return Ping(bytes(payload))
                    case Opcode.PONG:
                        self._spend()  # unasked for, which RFC 6455 allows (section 5.5.3)
                    case Opcode.CLOSE:
                        assert isinstance(payload, tuple)
                        return Closing(int(payload[0]))
                    case _:
                        raise Refused(CloseReason.UNSUPPORTED_DATA, "Only text is understood here.")
        except ParseFailed as error:
            raise Refused(error.code, "This is not the WebSocket protocol.") from error
        return None

    def _collect(self, part: str) -> None:
        self._within(self._length + len(part))
        self._length += len(part)
        self._parts.append(part)
        if len(self._parts) > _PARTS_MAX:
            self._parts = ["".join(self._parts)]

    def _joined(self) -> str:
        text = "".join(self._parts)
        self._parts = []
        self._length = 0
        return text

    def _within(self, length: int) -> None:
        if length > self._limits.message_characters_max:
            raise Refused(CloseReason.MESSAGE_TOO_BIG, "A message was larger than allowed here.")

    def _spend(self) -> None:
        now = self._clock()
        refill = (now - self._budget_at) * self._limits.frames_per_second
        self._budget = min(float(self._limits.frames_burst), self._budget + refill) - 1
        self._budget_at = now
        if self._budget < 0:
            raise Refused(CloseReason.POLICY_VIOLATION, "Too many frames that bring no message.")
