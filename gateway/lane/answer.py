"""An answer as bytes: the same status, headers and body that the Quart route gives, put together cheaply.

What does not change from answer to answer is encoded once, the date once a second. Names are lower-case and
there is no reason phrase, as Hypercorn writes them.
"""

import time
from email.utils import formatdate
from typing import Final

from gateway import envelope
from gateway.security_headers import SECURITY_HEADERS
from gateway.webhooks import Answer

_JSON: Final = {"Content-Type": envelope.JSON_TYPE}
_MESSAGES: Final = {
    400: "The request could not be read.",
    403: "Pages of this origin may not connect.",
    408: "The request did not arrive in time.",
    413: "The request's body is larger than allowed here.",
    431: "The request's head is larger than allowed here.",
    501: "This transfer coding is not taken here.",
    503: "Too many deliveries are being read.",
}

_TAIL: Final = "".join(f"{name.lower()}: {value}\r\n" for name, value in SECURITY_HEADERS.items())
_TAIL_NAMES: Final = frozenset(SECURITY_HEADERS)


class _Clock:
    """The Date header's line, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = ""

    def line(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._line = f"date: {formatdate(second, usegmt=True)}\r\n"
        return self._line


_clock: Final = _Clock()


def encode(answer: Answer, *, close: bool) -> bytes:
    """The whole answer. `close` announces that the connection ends with it."""
    lines = [f"HTTP/1.1 {answer.status} \r\n"]
    overridden = False
    for name, value in answer.headers.items():
        lines.append(f"{name.lower()}: {value}\r\n")
        overridden = overridden or name in _TAIL_NAMES
    lines.append(f"content-length: {len(answer.body)}\r\n")
    lines.append(_without(answer) if overridden else _TAIL)
    lines.append(_clock.line())
    lines.append("connection: close\r\n\r\n" if close else "\r\n")
    return "".join(lines).encode("latin-1") + answer.body


class Template:
    """An answer that is given in thousands, encoded once a second; only the request id differs."""

    def __init__(self, answer: Answer) -> None:
        self.answer: Final = answer
        self._second = 0
        self._before = b""
        self._behind = b""

    def filled(self, trace: str) -> bytes:
        """As `encode` would, with `trace` for the request id."""
        second = int(time.time())
        if second != self._second:
            mark = "?" * 32
            headers = {**self.answer.headers, "X-Request-Id": mark}
            marked = Answer(status=self.answer.status, headers=headers, body=self.answer.body)
            self._before, _, self._behind = encode(marked, close=False).partition(mark.encode())
            self._second = second
        return b"%b%b%b" % (self._before, trace.encode("ascii"), self._behind)


def continue_() -> bytes:
    """The interim answer that lets a client send the body it announced with `Expect`."""
    return b"HTTP/1.1 100 \r\n" + _clock.line().encode("ascii") + b"\r\n"


def refusal(status: int, code: str, trace: str) -> Answer:
    """What is said to a request that never reaches the handler."""
    headers = {**_JSON, "X-Request-Id": trace}
    if status == 503:
        headers["Retry-After"] = "2"
    failure = envelope.Failure(status=status, code=code, message=_MESSAGES[status])
    return Answer(status=status, headers=headers, body=envelope.failure_body(failure))


def _without(answer: Answer) -> str:
    """The usual headers, less those that the answer has set itself."""
    usual = ((name, value) for name, value in SECURITY_HEADERS.items() if name not in answer.headers)
    return "".join(f"{name.lower()}: {value}\r\n" for name, value in usual)
