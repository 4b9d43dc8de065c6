"""Faults that a script or a person sets while the platform runs.

A fault applies to Graph calls of one route (or any), for a number of calls, for a time, or until it is
cleared. The first fault that fits a call is used. At most 100 are kept: more is a script gone wild.
"""

import random
from typing import Literal

from msgspec import Struct

from engine.errors import InvalidInput

FaultKind = Literal["error", "garbage", "slow", "hang", "reset", "drip"]
Route = Literal["send", "media_upload", "media_look_up", "media_download", "management", "any"]

FAULTS_MAX = 100
HANG_SECONDS_MAX = 600.0
"""A hanging call holds a connection; clients have given up long before."""


class Fault(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to misbehave.

    - `error`    the Graph error `code`, with `status` and Retry-After `retry_after_seconds` when given.
                 190 is an expired token, 130429 a throttle, 131000 a failure of the platform.
    - `garbage`  `status` (200 when not given) with a body that is not JSON.
    - `slow`     the call is done after `seconds`.
    - `hang`     no answer: the connection ends after `seconds`.
    - `reset`    the connection is reset.
    - `drip`     the body comes at `bytes_per_second`.

    With `accepts` the call takes effect before `garbage`, `hang`, `reset` or `error` spoils the answer:
    accepted, and the client cannot know.
    """

    kind: FaultKind
    route: Route = "send"
    times: int | None = None
    for_seconds: float | None = None
    probability: float = 1.0
    phone_number_id: str | None = None
    accepts: bool = False
    code: int = 131000
    subcode: int | None = None
    status: int | None = None
    retry_after_seconds: float | None = None
    seconds: float = 1.0
    bytes_per_second: float = 1_000.0


class _Armed(Struct):
    id: int
    fault: Fault
    until: float
    left: int | None
    used: int = 0


class FaultBook:
    """The faults that are set now. `now` is monotonic seconds."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._armed: list[_Armed] = []
        self._last_id = 0

    def add(self, fault: Fault, now: float) -> int:
        """Arms a fault and returns its id; `InvalidInput` when it makes no sense or there are 100."""
        self._forget_spent(now)
        if len(self._armed) >= FAULTS_MAX:
            raise InvalidInput(f"there are {FAULTS_MAX} faults already; clear some first")
        if not 0 <= fault.seconds <= HANG_SECONDS_MAX:
            raise InvalidInput(f"seconds lies between 0 and {HANG_SECONDS_MAX:g}")
        if fault.bytes_per_second <= 0:
            raise InvalidInput("bytes_per_second is positive")
        if fault.times is not None and fault.times < 1:
            raise InvalidInput("times is at least 1; leave it out for no limit")
        until = float("inf") if fault.for_seconds is None else now + fault.for_seconds
        self._last_id += 1
        self._armed.append(_Armed(self._last_id, fault, until, fault.times))
        return self._last_id

    def take(self, route: Route, phone_number_id: str | None, now: float) -> Fault | None:
        """The fault for this call, used up by one."""
        for armed in self._armed:
            fault = armed.fault
            if armed.until <= now or armed.left == 0 or fault.route not in (route, "any"):
                continue
            if fault.phone_number_id not in (None, phone_number_id):
                continue
            if fault.probability < 1 and self._rng.random() >= fault.probability:
                continue
            armed.used += 1
            if armed.left is not None:
                armed.left -= 1
            return fault
        return None

    def clear(self, fault_id: int | None = None) -> int:
        """Disarms one fault, or all; returns how many."""
        kept = [armed for armed in self._armed if fault_id is not None and armed.id != fault_id]
        cleared = len(self._armed) - len(kept)
        self._armed = kept
        return cleared

    def listing(self, now: float) -> list[dict[str, object]]:
        """What is armed, with what is left of it."""
        self._forget_spent(now)
        return [{"id": a.id, "fault": a.fault, "left": a.left, "used": a.used} for a in self._armed]

    def _forget_spent(self, now: float) -> None:
        self._armed = [armed for armed in self._armed if armed.until > now and armed.left != 0]
