"""The wall clock that all parts share."""

import time


def wall_ms() -> int:
    return time.time_ns() // 1_000_000
