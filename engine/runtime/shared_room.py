"""A bounded room that tenants share without one of them filling it. Pure.

How much a tenant may hold moves with what is free: at most `ALPHA` times as much. These are the dynamic
thresholds of shared-memory switches (Choudhury and Hahne, 1998). Nothing has to be configured or known about
who will come: a lone tenant may use most of the room, and the more tenants are at their threshold the lower
it gets for each, while something stays free for who is below it.
"""

from typing import Final

ALPHA: Final = 2
"""n tenants that flood hold 2/(2n+1) of the room each and leave 1/(2n+1): one alone has two thirds of it, two
have 40 % each, ten still leave 5 % for those who need little. Floods that begin one after the other, before
the first has drained, leave 1/3 of a 1/3: with 4 that would be 1/5 of a 1/5, with 1 a lone tenant would have
no more than half."""


class SharedRoom:
    """`limit` units of something, and who holds how many."""

    __slots__ = ("_held", "limit", "total")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self._held: dict[int, int] = {}

    def has_room(self, tenant: int, *, reserve: int = 0) -> bool:
        """Whether `tenant` may take more when the last `reserve` units are for others' use.

        Who holds nothing may take as long as anything is free."""
        free = self.limit - reserve - self.total
        return free > 0 and self._held.get(tenant, 0) < ALPHA * free

    def held(self, tenant: int) -> int:
        """What `tenant` has now."""
        return self._held.get(tenant, 0)

    def take(self, tenant: int, units: int) -> None:
        """Not refused: whoever takes without asking, or more than was free, passes the limit."""
        self.total += units
        self._held[tenant] = self._held.get(tenant, 0) + units

    def give_back(self, tenant: int, units: int) -> None:
        """The counterpart of `take`, all at once or in parts."""
        self.total -= units
        left = self._held.get(tenant, 0) - units
        if left:
            self._held[tenant] = left
        else:
            self._held.pop(tenant, None)
