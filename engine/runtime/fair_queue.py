"""One queue that many tenants share, in which none of them delays the others by more than its turn. Pure.

It is deficit round robin (Shreedhar and Varghese, 1995) in its surplus form (Adiseshu, Parulkar and
Varghese, 1996): an item is paid for after it came out, because nobody knows before a bite what it will cost.
A tenant's turn lasts while its balance is positive; what it took beyond that is a debt, which its next turns
pay.

Promises
    Order      first in, first out for each tenant.
    Work       an item comes out whenever there is one. A tenant without items has no turn, and a lone tenant
               is not measured.
    Wait       whoever has something waiting and no debt has his turn after at most one turn of each other
               tenant. A turn costs at most `quantum` and the last item's surplus.
    Share      tenants that always have something waiting get the same: what two of them got since both were
               there never differs by more than two quanta and two of the largest cost.
    Memory     an entry for each tenant that has something waiting or has left with a debt, which is gone
               after as many rounds as it takes to pay it, and one for the tenant whose turn it is.

Adding and taking cost the same however many tenants there are, as long as no item costs more than a few
quanta (each further quantum is one more round past the others' entries).
"""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class _Flow(Generic[T]):
    """What one tenant has waiting, and what was left of its turn when that ended (0 or a debt)."""

    __slots__ = ("balance", "items", "tenant")

    def __init__(self, tenant: int | None) -> None:
        self.tenant = tenant
        self.items: deque[T] = deque()
        self.balance = 0


class FairQueue(Generic[T]):
    """Items by tenant.

    `balance` is what is left of the turn: subtract from it what each item that came out has cost, at least 1,
    before the next one is taken.
    """

    __slots__ = ("_flows", "_others", "_quantum", "_turn", "balance")

    def __init__(self, quantum: int) -> None:
        self.balance = 0
        self._quantum = quantum
        self._flows: dict[int | None, _Flow[T]] = {}
        # Nobody's: it gives way to the first tenant.
        self._turn: _Flow[T] = _Flow(None)
        self._others: deque[_Flow[T]] = deque()

    def __bool__(self) -> bool:
        if self._turn.items:
            return True
        return bool(self._others) and any(flow.items for flow in self._others)

    def __len__(self) -> int:
        """Walks over the tenants."""
        return sum(len(flow.items) for flow in self._flows.values())

    def __iter__(self) -> Iterator[T]:
        """Everything, one tenant after the other."""
        return (item for flow in self._flows.values() for item in flow.items)

    def heads(self) -> Iterator[T]:
        """The item of each tenant that is the tenant's next."""
        return (flow.items[0] for flow in self._flows.values() if flow.items)

    def waiting(self, tenant: int) -> int:
        """How many items `tenant` has."""
        flow = self._flows.get(tenant)
        return 0 if flow is None else len(flow.items)

    def push(self, tenant: int, item: T) -> None:
        """Put `item` behind what `tenant` has waiting."""
        flow = self._flows.get(tenant)
        if flow is None:
            flow = self._enter(tenant)
        flow.items.append(item)

    def pop(self) -> T | None:
        """Take what is next; None when nothing waits."""
        if self._others:
            self._pass_on()
        items = self._turn.items
        return items.popleft() if items else None

    def peek(self) -> T | None:
        """What `pop` would take."""
        if self._others:
            self._pass_on()
        items = self._turn.items
        return items[0] if items else None

    def take(self, count: int) -> list[T]:
        """Take up to `count` items, each at a cost of 1: of a lone tenant as many as there are, of several at
        most one turn of each, so that what is done with these items together is not one tenant's doing."""
        taken: list[T] = []
        served: set[int | None] = set()
        while len(taken) < count:
            if self._others:
                self._pass_on()
            turn = self._turn
            items = turn.items
            if not items or turn.tenant in served:
                break
            together = min(len(items), count - len(taken))
            if self._others or served:
                together = min(together, self.balance)
                served.add(turn.tenant)
            if together == len(items):
                taken += items
                items.clear()
            else:
                taken += [items.popleft() for _ in range(together)]
            self.balance -= together
        return taken

    def _enter(self, tenant: int) -> _Flow[T]:
        if not self._others:
            # The tenant whose turn it is was alone and owed nobody: its turn begins now.
            self.balance = self._quantum
        flow = self._flows[tenant] = _Flow(tenant)
        self._others.append(flow)
        return flow

    def _pass_on(self) -> None:
        """See to it that the turn belongs to a tenant with something waiting, if there is one."""
        flow = self._turn
        if flow.items and self.balance > 0:
            return
        others = self._others
        flow.balance = self.balance
        while others:
            if flow.items or flow.balance < 0:
                # Also without items: a debt does not go away by having nothing to do for a moment.
                others.append(flow)
            else:
                self._flows.pop(flow.tenant, None)
            flow = others.popleft()
            flow.balance += self._quantum
            if flow.items and flow.balance > 0:
                break
        self._turn = flow
        self.balance = flow.balance
