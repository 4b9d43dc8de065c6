"""What every part of the suite can ask for."""

from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings

from adapters.registry import describe_all

describe_all()  # as the root does before anything runs: conversations are decided by their platform's rules

# A run says the same each time, on any machine: examples follow from the test alone, and no example is late.
# `--hypothesis-profile=search` looks at others.
settings.register_profile(
    "suite", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

pytest_plugins = ["tests.fixtures.postgres", "tests.fixtures.system"]


@pytest.fixture(autouse=True, scope="session")
def loggers_are_not_kept() -> Iterator[None]:
    """A command that configures logging makes each module's logger keep its output for good, as a server
    should. In one process with other tests, those would then listen in vain."""
    configure = structlog.configure

    def configure_without_keeping(**options: Any) -> None:
        configure(**{**options, "cache_logger_on_first_use": False})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structlog, "configure", configure_without_keeping)
        yield


@pytest.fixture(autouse=True)
def logging_is_as_it_was() -> Iterator[None]:
    """What one test configures, no other hears or misses."""
    yield
    structlog.reset_defaults()
