"""Which lines were asked for. Pure; every condition that is given must hold."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final

from msgspec import Struct

from gateway.logs.lines import Line

LEVELS: Final[Mapping[str, int]] = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class Filter(Struct, frozen=True, kw_only=True):
    """None means "any". `event` is a shell pattern (`webhook.*`); `level` is the least severe one wanted."""

    tenant: str | None = None
    conversation: str | None = None
    trace: str | None = None
    event: str | None = None
    level: str | None = None

    def wants(self, line: Line) -> bool:
        for name, wanted in (
            ("tenant", self.tenant),
            ("conversation", self.conversation),
            ("trace", self.trace),
        ):
            if wanted is not None and not line.carries(name, wanted):
                return False
        if self.event is not None and not fnmatchcase(line.event, self.event):
            return False
        # A level we do not know is shown: hiding a line for its spelling would hide what it says.
        return self.level is None or LEVELS.get(line.level, LEVELS["critical"]) >= LEVELS[self.level]
