"""What the customers actor can be asked: who is one person with whom, and customers that were made by hand.

Address: (kind "customers", tenant, "merges"). One for each tenant and one message at a time, so that merges
are decided one after the other. It also takes ChangeCustomer and hands it on to the customer's contact, if
there is one.
"""

from typing import Any

from msgspec import Struct

from engine.domain.conversation.messages import By, ChangeCustomer, Link
from engine.domain.rows import MergeRow
from engine.runtime import Address

KIND = "customers"


def address_of(tenant_id: int) -> Address:
    return Address(KIND, tenant_id, "merges")


class CreateCustomer(Struct, frozen=True, tag=True, kw_only=True):
    """A customer who has not written yet. `values` are members of CustomerRow, checked already; `name` must
    be there. Answer: CustomerResource."""

    values: dict[str, Any]
    by: By
    trace: str = ""


class Merge(Struct, frozen=True, tag=True, kw_only=True):
    """Two customers are one person. Where one of them was merged already, the persons are. Answer: Merged.
    Refusals: NotFound; Conflicting code already_merged | limit_reached."""

    survivor_id: int
    merged_id: int
    by: By
    trace: str = ""


class Unmerge(Struct, frozen=True, tag=True, kw_only=True):
    """Undoes the merge by which this customer, and those merged into him before, are part of another. Answer:
    Merged. Refusals: NotFound; Conflicting code not_merged."""

    customer_id: int
    by: By
    trace: str = ""


class Merged(Struct, frozen=True, kw_only=True):
    """The record, durable, and what the contacts' actors were told; asked the same, they answer when they
    show it."""

    merge: MergeRow
    links: tuple[tuple[tuple[int, str], Link], ...]


class Linked(Struct, frozen=True, tag=True):
    """From a contact: the link with this version is durable in the customer's row."""

    version: int
    customer_id: int
    trace: str = ""


class Renamed(Struct, frozen=True, tag=True):
    """From a contact: others are shown as this customer, and he has another name or picture now."""

    customer_id: int
    trace: str = ""


class Resume(Struct, frozen=True, tag=True):
    """After a start: wakes the actor, which tells what an earlier process may not have told."""


class Settle(Struct, frozen=True, tag=True):
    """To itself: those, one after the other."""

    merges: tuple[MergeRow, ...]


CustomersMessage = CreateCustomer | ChangeCustomer | Merge | Unmerge | Linked | Renamed | Resume | Settle
