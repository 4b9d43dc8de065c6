"""How a lane ends a connection so that the client learns why."""

import uuid
from contextlib import suppress
from typing import Final

import structlog
import trio

from gateway.lane import answer as answers
from gateway.lane.parser import Refused
from gateway.metrics import Metrics

_log = structlog.get_logger()

PARTING_SECONDS_MAX: Final = 2.0
PARTING_BYTES_MAX: Final = 4 * 1024 * 1024
"""Closing on unread bytes makes the kernel reset the connection, and the client may never see why. So what it
is still sending is read away for a moment: a body of the largest allowed size and some."""

_READ_BYTES: Final = 64 * 1024


async def refuse(stream: trio.SocketStream, refused: Refused, metrics: Metrics) -> None:
    """Answers with the refusal in the envelope. The caller closes the stream."""
    trace = uuid.uuid4().hex
    metrics.lane_refused.labels(str(refused.status)).inc()
    _log.warning("lane.refused", trace=trace, status=refused.status, reason=refused.why)
    answer = answers.encode(answers.refusal(refused.status, refused.code, trace), close=True)
    with trio.move_on_after(PARTING_SECONDS_MAX), suppress(OSError, trio.BrokenResourceError):
        await stream.send_all(answer)
        await part(stream)


async def part(stream: trio.SocketStream) -> None:
    """Closes our side and reads away what the other one is still sending, for a moment."""
    dropped = 0
    with trio.move_on_after(PARTING_SECONDS_MAX), suppress(OSError, trio.BrokenResourceError):
        await stream.send_eof()
        while dropped < PARTING_BYTES_MAX:
            data = await stream.receive_some(_READ_BYTES)
            if not data:
                return
            dropped += len(data)
