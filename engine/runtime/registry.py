"""Where an address leads: the table of mailboxes, and who makes a new one.

Kinds of the static tree lead to one place whatever the tenant of the address; the other kinds lead into the
subtree of the tenant, which is made from the template by the first message to any of its addresses.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from engine.errors import Defect, MijraError
from engine.runtime.address import Address
from engine.runtime.cell import Cell, Kind
from engine.runtime.mailbox import Envelope, Mailbox
from engine.runtime.observing import Observer

if TYPE_CHECKING:
    from engine.runtime.release import Release


class Home(Protocol):
    """A node of the tree that has the actors of one kind."""

    def admit(self, address: Address) -> Mailbox:
        """A mailbox for `address`, which has none. Raises `ActorStopped` when the place has closed."""
        ...


class Registry:
    """The mailboxes of all addresses that have one."""

    def __init__(self, observer: Observer) -> None:
        self.mailboxes: dict[Address, Mailbox] = {}
        self.kinds: dict[str, Kind] = {}
        self.static: dict[str, Home] = {}
        self.tenants: dict[int, dict[str, Home]] = {}
        self.template: frozenset[str] = frozenset()
        self.undeliverable = 0
        self.make_tenant: Callable[[int], dict[str, Home]]
        self.release: Release
        self._observer = observer

    def check(self, address: Address) -> None:
        """Raise `Defect` for an address of a kind that does not exist."""
        if address.kind not in self.template and address.kind not in self.static:
            raise Defect(f"there is no kind of actors {address.kind!r}")

    def find(self, address: Address) -> Mailbox:
        """The mailbox of `address`, made if need be. Raises `ActorStopped`, and `Defect` for an unknown
        kind."""
        mailbox = self.mailboxes.get(address)
        if mailbox is not None:
            return mailbox
        kind = address.kind
        home = self.static.get(kind)
        if home is None:
            homes = self.tenants.get(address.tenant)
            if homes is None:
                self.check(address)
                homes = self.make_tenant(address.tenant)
            home = homes.get(kind)
            if home is None:
                raise Defect(f"there is no kind of actors {kind!r}")
        return home.admit(address)

    def forget(self, mailbox: Mailbox) -> None:
        """`mailbox` is not its address's any more."""
        if self.mailboxes.get(mailbox.address) is mailbox:
            del self.mailboxes[mailbox.address]

    def lost(self, address: Address, message: object, reason: str) -> None:
        """Count and report a message that nobody will handle."""
        self.undeliverable += 1
        kind = self.kinds.get(address.kind)
        if kind is not None:
            kind.undeliverable += 1
        self._observer.undeliverable(address, message, reason)

    def refuse_all(self, address: Address, items: Iterable[Any], error: MijraError) -> None:
        """Nobody will handle `items`: their askers hear of it, the others are counted and reported."""
        for item in items:
            if type(item) is Envelope:
                if item.asked:
                    item.refuse(error)
                else:
                    self.lost(address, item.message, error.message)
            else:
                self.lost(address, item, error.message)

    def cells(self) -> list[Cell]:
        """All virtual actors that have something in memory."""
        return [mailbox for mailbox in self.mailboxes.values() if isinstance(mailbox, Cell)]
