"""Customers: who they are over all channels, and which of them are one person.

A customer comes to be with a contact's first message, or is made here. Two that are one person are merged by
hand: the survivor shows the conversations of both, nothing is rewritten, and the merge can be undone. The
engine only suggests.
"""

import contextlib
from typing import Annotated, Any
from zoneinfo import available_timezones

import trio
from msgspec import UNSET, Meta, Struct, UnsetType, field
from msgspec.json import encode

from engine.domain.conversation.messages import ChangeCustomer, Link
from engine.domain.customers.messages import CreateCustomer, Merge, Merged, Unmerge
from engine.domain.resources import ConversationResource, CustomerResource, HandleRef, UserRef, rfc3339
from engine.domain.rows import MergeRow
from engine.errors import MijraError, NotFound
from engine.reading import Candidate, ConversationCounts, Page, Profile
from gateway.envelope import Answer
from gateway.permissions import Permission
from gateway.phones import e164
from gateway.routing import Routes, TenantCall
from gateway.schemas import END, Email, Id, Input, PageQuery, given, invalid

routes = Routes("customers")

ATTRIBUTES_MAX = 100
ATTRIBUTES_BYTES_MAX = 16_384
"""What a person fills into forms; a customer's row is loaded with each of his conversations."""

CustomerName = Annotated[str, Meta(min_length=1, max_length=200)]
Phone = Annotated[str, Meta(min_length=3, max_length=32)]
Country = Annotated[str, Meta(pattern="^[A-Z]{2}" + END)]
Locale = Annotated[str, Meta(pattern="^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*" + END, max_length=35)]
TimeZone = Annotated[str, Meta(min_length=1, max_length=64)]


class CustomerBody(Input, frozen=True, kw_only=True):
    """`phone` in international form; `country` (ISO 3166) lets it be written the national way."""

    name: CustomerName
    phone: Phone | None = None
    country: Country | None = None
    email: Email | None = None
    locale: Locale | None = None
    timezone: TimeZone | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


class CustomerPatch(Input, frozen=True, kw_only=True):
    """Members that are left out stay; null empties one. `attributes` are replaced as a whole. A name that is
    set stays whatever the platform calls the customer; a telephone number or e-mail address that was emptied
    comes back with his next message where the channel tells it."""

    name: CustomerName | UnsetType = UNSET
    phone: Phone | UnsetType | None = UNSET
    country: Country | UnsetType = UNSET
    email: Email | UnsetType | None = UNSET
    locale: Locale | UnsetType | None = UNSET
    timezone: TimeZone | UnsetType | None = UNSET
    attributes: dict[str, Any] | UnsetType = UNSET


class ListQuery(PageQuery, frozen=True, kw_only=True):
    """`search` looks in names, telephone numbers and e-mail addresses."""

    search: Annotated[str, Meta(min_length=1, max_length=200)] | None = None


class MergesQuery(PageQuery, frozen=True, kw_only=True):
    """With `customer_id`, those that this customer has a part in."""

    customer_id: Id | None = None


class MergeBody(Input, frozen=True, kw_only=True):
    """The customer who becomes part of the one in the path."""

    customer_id: Id


class MergeOut(Struct, frozen=True, kw_only=True):
    """`undone_at` is null while the merge stands."""

    id: int
    survivor_id: int
    merged_id: int
    by_user: UserRef | None
    created_at: str
    undone_by_user: UserRef | None
    undone_at: str | None


class MergeResult(Struct, frozen=True, kw_only=True):
    """The record, and the customer in the path as he is shown now."""

    merge: MergeOut
    customer: CustomerResource


class CandidateOut(Struct, frozen=True, kw_only=True):
    """`reasons`: phone, phone_variant (the same number written another way), email."""

    customer: CustomerResource
    reasons: tuple[str, ...]


class ConversationsOut(Struct, frozen=True, kw_only=True):
    """The newest, and how many there are."""

    counts: ConversationCounts
    newest: tuple[ConversationResource, ...]


class ProfileOut(Struct, frozen=True, kw_only=True):
    """A person. `members` are the customers who were merged into `customer`; `handles` and `conversations`
    are those of all of them."""

    customer: CustomerResource
    members: tuple[CustomerResource, ...]
    handles: tuple[HandleRef, ...]
    conversations: ConversationsOut


@routes.get("/customers", needs=Permission.CUSTOMERS_VIEW, answer=CustomerResource, paged=True)
async def list_customers(call: TenantCall, query: ListQuery) -> Answer:
    """List customers, newest first. Who was merged into another is found by him."""
    page = await call.deps.customers.customers(
        call.tenant.id, search=query.search, limit=query.limit, cursor=query.cursor
    )
    return Answer(data=page)


@routes.post("/customers", needs=Permission.CUSTOMERS_MANAGE, answer=CustomerResource, status=201)
async def create_customer(call: TenantCall, body: CustomerBody) -> Answer:
    """Create a customer who has not written yet."""
    values = {name: getattr(body, name) for name in body.__struct_fields__}
    command = CreateCustomer(values=_checked(values), by=call.by, trace=call.trace)
    created = await call.deps.engine.ask_customers(call.tenant.id, command)
    return Answer(data=created, status=201, message="Customer created")


@routes.get("/customers/merges", needs=Permission.CUSTOMERS_VIEW, answer=MergeOut, paged=True)
async def list_merges(call: TenantCall, query: MergesQuery) -> Answer:
    """List merges, newest first, with those that were undone."""
    page = await call.deps.customers.merges(
        call.tenant.id, customer_id=query.customer_id, limit=query.limit, cursor=query.cursor
    )
    shown = [_merge_out(call, merge) for merge in page.items]
    return Answer(data=Page(items=shown, next_cursor=page.next_cursor))


@routes.get("/customers/<id:customer_id>", needs=Permission.CUSTOMERS_VIEW, answer=CustomerResource)
async def show_customer(call: TenantCall, customer_id: int) -> Answer:
    """Show one customer; `merged_into` says whom he is shown as."""
    return Answer(data=await _customer(call, customer_id))


@routes.update("/customers/<id:customer_id>", needs=Permission.CUSTOMERS_MANAGE, answer=CustomerResource)
async def update_customer(call: TenantCall, customer_id: int, body: CustomerPatch) -> Answer:
    """Change a customer; members that are left out stay."""
    command = ChangeCustomer(
        customer_id=customer_id, values=_checked(given(body)), by=call.by, trace=call.trace
    )
    changed = await call.deps.engine.ask_customers(call.tenant.id, command)
    return Answer(data=changed, message="Customer changed")


@routes.get("/customers/<id:customer_id>/profile", needs=Permission.CUSTOMERS_VIEW, answer=ProfileOut)
async def show_profile(call: TenantCall, customer_id: int) -> Answer:
    """Show the person that a customer is part of, with handles and conversations of all channels."""
    profile = await call.deps.customers.profile(call.tenant.id, customer_id, visible_to=call.visible_to)
    if profile is None:
        raise NotFound("There is no such customer.")
    return Answer(data=_profile_out(profile))


@routes.get(
    "/customers/<id:customer_id>/candidates", needs=Permission.CUSTOMERS_VIEW, answer=list[CandidateOut]
)
async def list_candidates(call: TenantCall, customer_id: int) -> Answer:
    """List up to 20 customers who may be the same person, and why."""
    found = await call.deps.customers.candidates(call.tenant.id, customer_id)
    if found is None:
        raise NotFound("There is no such customer.")
    return Answer(data=[_candidate_out(each) for each in found])


@routes.post(
    "/customers/<id:customer_id>/merge", needs=Permission.CUSTOMERS_MERGE, answer=MergeResult, status=201
)
async def merge(call: TenantCall, customer_id: int, body: MergeBody) -> Answer:
    """Say that another customer is the same person as this one, who survives."""
    command = Merge(survivor_id=customer_id, merged_id=body.customer_id, by=call.by, trace=call.trace)
    merged: Merged = await call.deps.engine.ask_customers(call.tenant.id, command)
    return Answer(data=await _shown(call, customer_id, merged), status=201, message="Merged")


@routes.post("/customers/<id:customer_id>/unmerge", needs=Permission.CUSTOMERS_MERGE, answer=MergeResult)
async def unmerge(call: TenantCall, customer_id: int) -> Answer:
    """Undo the merge by which this customer became part of another."""
    command = Unmerge(customer_id=customer_id, by=call.by, trace=call.trace)
    merged: Merged = await call.deps.engine.ask_customers(call.tenant.id, command)
    return Answer(data=await _shown(call, customer_id, merged), message="Merge undone")


async def _shown(call: TenantCall, customer_id: int, merged: Merged) -> MergeResult:
    """Once the contacts show it. The merge is durable already: one that is slow shows it a little later."""

    async def ask(place: tuple[int, str], link: Link) -> None:
        with contextlib.suppress(MijraError):
            await call.deps.engine.ask_contact(call.tenant.id, *place, link)

    async with trio.open_nursery() as nursery:
        for place, link in merged.links:
            nursery.start_soon(ask, place, link)
    return MergeResult(merge=_merge_out(call, merged.merge), customer=await _customer(call, customer_id))


async def _customer(call: TenantCall, customer_id: int) -> CustomerResource:
    customer = await call.deps.customers.customer(call.tenant.id, customer_id)
    if customer is None:
        raise NotFound("There is no such customer.")
    return customer


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """What was sent as the members of a customer. Raises InvalidInput with the field that cannot be."""
    country = values.pop("country", None)
    if values.get("phone") is not None:
        values["phone"] = e164(values["phone"], country)
    zone = values.get("timezone")
    if zone is not None and zone not in available_timezones():
        raise invalid("timezone", "Is not a time zone, such as Asia/Riyadh.")
    attributes = values.get("attributes", {})
    if len(attributes) > ATTRIBUTES_MAX:
        raise invalid("attributes", f"At most {ATTRIBUTES_MAX}.")
    if len(encode(attributes)) > ATTRIBUTES_BYTES_MAX:
        raise invalid("attributes", f"At most {ATTRIBUTES_BYTES_MAX} bytes in all.")
    return values


def _profile_out(profile: Profile) -> ProfileOut:
    return ProfileOut(
        customer=profile.customer,
        members=tuple(profile.members),
        handles=tuple(profile.handles),
        conversations=ConversationsOut(counts=profile.counts, newest=tuple(profile.conversations)),
    )


def _candidate_out(candidate: Candidate) -> CandidateOut:
    return CandidateOut(customer=candidate.customer, reasons=tuple(candidate.reasons))


def _merge_out(call: TenantCall, merge: MergeRow) -> MergeOut:
    return MergeOut(
        id=merge.id,
        survivor_id=merge.survivor_id,
        merged_id=merge.merged_id,
        by_user=_user_ref(call, merge.by_user_id),
        created_at=rfc3339(merge.created_at) or "",
        undone_by_user=_user_ref(call, merge.undone_by_user_id),
        undone_at=rfc3339(merge.undone_at),
    )


def _user_ref(call: TenantCall, user_id: int | None) -> UserRef | None:
    if user_id is None:
        return None
    agent = call.config.agents.get(user_id)
    return UserRef(id=user_id, name=agent.name if agent else "")
