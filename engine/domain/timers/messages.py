"""What the timers actor of a tenant can be told. Address: (kind "timers", tenant, "timers")."""

from msgspec import Struct

from engine.domain.rows import TimerRow
from engine.runtime import Address

KIND = "timers"


def address_of(tenant_id: int) -> Address:
    return Address(KIND, tenant_id, "timers")


class Arm(Struct, frozen=True, tag=True):
    """A deadline whose row is committed."""

    row: TimerRow


class Disarm(Struct, frozen=True, tag=True):
    """A deadline that is gone: fired and committed, or no longer wanted. Unknown ids are ignored."""

    timer_id: int


class Tick(Struct, frozen=True, tag=True):
    """From itself: the next deadline, or the end of what was loaded, has come. Also sent at start."""


TimersMessage = Arm | Disarm | Tick
