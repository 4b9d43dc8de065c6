"""What is logged, for tests that look at it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from structlog.testing import LogCapture


@contextmanager
def capture_logs() -> Iterator[list[dict[str, Any]]]:
    """As structlog's, for what this thread says alone: the servers of other tests live on in threads of their
    own, and what they log is neither heard here nor disturbed."""
    capture, listening = LogCapture(), threading.get_ident()
    usual = structlog.get_config()["processors"]

    def hear(logger: Any, method: str, event: Any) -> Any:
        if threading.get_ident() == listening:
            capture(logger, method, event)
        for processor in usual:
            event = processor(logger, method, event)
        return event

    structlog.configure(processors=[hear])
    try:
        yield capture.entries  # type: ignore[misc]
    finally:
        structlog.configure(processors=usual)
