"""The wall clock, for what is compared with the times of platforms."""

import time


def wall_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
