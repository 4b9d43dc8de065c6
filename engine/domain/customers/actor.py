"""A tenant's customers as persons: the only one who decides which customers are one person.

Owns       the merges and their undoing (`customer_merges`); the rows of customers who were made by hand. All
           others' rows are their contacts'.
Limits     64 messages wait at most; a person has at most 50 customers. One message at a time: its look-up
           shows all that was decided before, so merges of the same customers are decided one after the other.
Promises   a merge is recorded with who made it, and undone as recorded. It joins two persons, never one with
           itself, so there are no circles, and each customer is part of another by one merge at a time. What
           was merged before comes along and stays as it was recorded: merges can be undone in any order. What
           follows for each customer's own row is told to its writer until it is confirmed, also by the next
           process (`settled`).
Restart    what was not confirmed yet is told again by the next activation; it counts once, by its version.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, assert_never

from msgspec import Struct, structs, to_builtins

from engine.domain.conversation.messages import ChangeCustomer, Link, Shared
from engine.domain.conversation.messages import address_of as conversation_of
from engine.domain.customers.changing import apply_link, apply_values, audit, copied
from engine.domain.customers.messages import (
    KIND,
    CreateCustomer,
    CustomersMessage,
    Linked,
    Merge,
    Merged,
    Renamed,
    Resume,
    Settle,
    Unmerge,
    address_of,
)
from engine.domain.resources import CustomerRef, customer_resource, encode
from engine.domain.rows import AuditRow, CustomerRow, EventRow, MergeRow, Row
from engine.errors import Conflicting, NotFound
from engine.ports import CustomerStore, Member, Person, PersonsQuery, UnsettledQuery
from engine.runtime import Context, Decider, Effects, LoadRequest, Lookup, LookupRequest, Tell

MEMBERS_MAX = 50
"""Customers of one person: more channels than anybody has, and still one query and one screen."""

UNSETTLED_MAX = 500
"""Told again by a new activation, oldest first. A process dies with a handful; the rest waits for the
next."""

AWAITED_MAX = 1_000
"""Links that wait for their confirmation. Beyond it, the oldest wait for the next start."""

INBOX = "inbox"
SOURCE = "manual"


class Awaited(Struct):
    """A merge that is settled when these customers have confirmed."""

    merge: MergeRow
    customer_ids: set[int]


class CustomersState(Struct):
    """`awaited` by the version of its links. `unsettled`: what this activation has found and not told yet."""

    tenant_id: int
    unsettled: tuple[MergeRow, ...] = ()
    awaited: dict[int, Awaited] = {}


def decide(state: CustomersState, message: CustomersMessage, ctx: Context) -> Effects | Lookup:
    outcome = _decide(state, message, ctx)
    if not state.unsettled or isinstance(outcome, Lookup) or outcome.forward is not None:
        return outcome
    unsettled, state.unsettled = state.unsettled, ()
    settle = Tell(address_of(state.tenant_id), Settle(unsettled))
    return structs.replace(outcome, tell=(*outcome.tell, settle))


def _decide(state: CustomersState, message: CustomersMessage, ctx: Context) -> Effects | Lookup:
    match message:
        case CreateCustomer():
            return _create(state, message, ctx)
        case Linked():
            return _confirmed(state, message)
        case Resume():
            return Effects()
        case Merge(survivor_id=survivor_id, merged_id=merged_id):
            asked: tuple[int, ...] = (survivor_id, merged_id)
        case ChangeCustomer(customer_id=customer_id) | Unmerge(customer_id=customer_id):
            asked = (customer_id,)
        case Renamed(customer_id=customer_id):
            asked = (customer_id,)
        case Settle(merges=merges):
            asked = (merges[0].merged_id,)
        case _:
            assert_never(message)
    if not isinstance(ctx.found, tuple):
        return Lookup(PersonsQuery(tenant_id=state.tenant_id, customer_ids=asked))
    persons: Sequence[Person | None] = ctx.found
    if isinstance(message, Settle):
        return _settle(state, message.merges, persons[0], ctx)
    there = [person for person in persons if person is not None]
    if len(there) < len(persons):
        return Effects(refuse=NotFound("There is no such customer."))
    return _about(state, message, there, ctx)


def customers(store: CustomerStore) -> Decider:
    async def load(requests: Sequence[LoadRequest]) -> list[CustomersState]:
        queries = [
            UnsettledQuery(tenant_id=request.address.tenant, limit=UNSETTLED_MAX) for request in requests
        ]
        found = await store.find_people(queries)
        return [
            CustomersState(request.address.tenant, unsettled=merges)
            for request, merges in zip(requests, found, strict=True)
        ]

    return Decider(
        kind=KIND,
        decide=decide,
        load=load,
        lookup=_lookup(store),
        mailbox_max=64,
        idle_seconds_max=300.0,
        resident_max=10_000,
        in_flight_max=1,
    )


def _lookup(store: CustomerStore) -> Callable[[Sequence[LookupRequest]], Awaitable[Sequence[Any]]]:
    async def lookup(requests: Sequence[LookupRequest]) -> Sequence[Any]:
        return await store.find_people([request.query for request in requests])  # type: ignore[misc]

    return lookup


def _about(
    state: CustomersState, message: CustomersMessage, persons: Sequence[Person], ctx: Context
) -> Effects:
    match message:
        case Merge():
            return _merge(state, message, persons[0], persons[1], ctx)
        case Unmerge():
            return _unmerge(state, message, persons[0], ctx)
        case ChangeCustomer():
            return _change(state, message, persons[0], ctx)
        case Renamed(customer_id, trace):
            step = Step(state, ctx, trace)
            step.rename(persons[0], customer_id)
            return step.done()
        case _:
            raise AssertionError("nothing else asks about persons")


class Step:
    """What one message changes: rows, and what customers' writers are told."""

    def __init__(self, state: CustomersState, ctx: Context, trace: str) -> None:
        self.state = state
        self.ctx = ctx
        self.trace = trace
        self.rows: list[Row] = []
        self.tells: list[Tell] = []
        self.links: list[tuple[tuple[int, str], Link]] = []

    def settle(self, merge: MergeRow, person: Person) -> None:
        """Records the merge, and has everybody whom it moves shown as the person that they are part of."""
        version = self.ctx.new_id()
        awaited = self._show(person, person.below(merge.merged_id), version, confirm=True)
        for known in [key for key, each in self.state.awaited.items() if each.merge.id == merge.id]:
            del self.state.awaited[known]
        merge = structs.replace(merge, settled=not awaited)
        self.rows.append(merge)
        if awaited:
            self.state.awaited[version] = Awaited(merge, awaited)
            if len(self.state.awaited) > AWAITED_MAX:
                del self.state.awaited[next(iter(self.state.awaited))]

    def rename(self, person: Person, customer_id: int) -> None:
        """Those who are shown as this customer show his name as it is now."""
        if person.root_id == customer_id:
            others = tuple(each for each in person.members if each.customer.id != customer_id)
            self._show(person, others, self.ctx.new_id(), confirm=False)

    def _show(self, person: Person, members: Sequence[Member], version: int, *, confirm: bool) -> set[int]:
        """Links them to the person's root; who has to confirm it."""
        root, awaited = person.root, set()
        into = CustomerRef(id=root.id, name=root.name, avatar_url=root.avatar_url)
        for member in members:
            row = member.customer
            link = Link(
                customer_id=row.id,
                into=into if row.id != root.id else None,
                version=version,
                confirm=confirm,
                trace=self.trace,
            )
            if member.place is None:
                row = copied(row)
                event = apply_link(row, link)
                if event is not None:
                    self.customer(row, event)
                continue
            awaited.add(row.id)
            self.links.append((member.place, link))
            self.tells.append(Tell(conversation_of(self.state.tenant_id, *member.place), link))
        place = person.member(root.id).place
        if place is not None and any(member.customer.id != root.id for member in members):
            shared = Shared(customer_id=root.id, name=root.name, avatar_url=root.avatar_url, trace=self.trace)
            self.tells.append(Tell(conversation_of(self.state.tenant_id, *place), shared))
        return awaited

    def customer(self, row: CustomerRow, event: str) -> None:
        """A customer without a contact, and the event that shows him."""
        self.rows.append(row)
        self.rows.append(
            EventRow(
                tenant_id=self.state.tenant_id,
                name=event,
                channels=(INBOX,),
                data_json=encode({"customer": customer_resource(row, ())}),
                trace=self.trace,
                at=self.ctx.now,
            )
        )

    def done(self, reply: object = None) -> Effects:
        return Effects(commit=self.rows, tell=self.tells, reply=reply)


def _create(state: CustomersState, message: CreateCustomer, ctx: Context) -> Effects:
    members = {
        "avatar_url": None,
        "email": None,
        "phone": None,
        "locale": None,
        "timezone": None,
        "attributes": {},
        **message.values,
    }
    row = CustomerRow(
        tenant_id=state.tenant_id,
        id=ctx.new_id(),
        source=SOURCE,
        first_seen_at=ctx.now,
        last_seen_at=ctx.now,
        created_at=ctx.now,
        named_by_hand=True,
        **members,
    )
    step = Step(state, ctx, message.trace)
    step.customer(row, "customer.created")
    step.rows.append(audit(row, "created", None, message.values, message, ctx))
    return step.done(customer_resource(row, ()))


def _change(state: CustomersState, message: ChangeCustomer, person: Person, ctx: Context) -> Effects:
    member = person.member(message.customer_id)
    if member.place is not None:
        return Effects(forward=conversation_of(state.tenant_id, *member.place))
    row = copied(member.customer)
    entry = apply_values(row, message, ctx)
    if entry is None:
        return Effects(reply=customer_resource(row, ()))
    step = Step(state, ctx, message.trace)
    step.customer(row, "customer.updated")
    step.rows.append(entry)
    if row.name != member.customer.name:
        member.customer = row
        step.rename(person, row.id)
    return step.done(customer_resource(row, ()))


def _merge(state: CustomersState, message: Merge, survivor: Person, merged: Person, ctx: Context) -> Effects:
    if survivor.root_id == merged.root_id:
        return Effects(refuse=Conflicting("They are one person already.", code="already_merged"))
    if len(survivor.members) + len(merged.members) > MEMBERS_MAX:
        return Effects(
            refuse=Conflicting(f"A person has at most {MEMBERS_MAX} customers.", code="limit_reached")
        )
    merge = MergeRow(
        tenant_id=state.tenant_id,
        id=ctx.new_id(),
        survivor_id=survivor.root_id,
        merged_id=merged.root_id,
        by_user_id=message.by.id,
        created_at=ctx.now,
    )
    moved = tuple(
        structs.replace(each, merge=merge) if each.customer.id == merged.root_id else each
        for each in merged.members
    )
    together = Person(root_id=survivor.root_id, members=(*survivor.members, *moved))
    step = Step(state, ctx, message.trace)
    step.settle(merge, together)
    step.rows.append(_trail(merge, "merged", message, ctx))
    return step.done(Merged(merge=merge, links=tuple(step.links)))


def _unmerge(state: CustomersState, message: Unmerge, person: Person, ctx: Context) -> Effects:
    customer_id = message.customer_id
    merge = person.member(customer_id).merge
    if merge is None:
        return Effects(refuse=Conflicting("The customer was not merged into another.", code="not_merged"))
    merge = structs.replace(merge, undone_at=ctx.now, undone_by_user_id=message.by.id)
    apart = tuple(
        structs.replace(each, merge=None) if each.customer.id == customer_id else each
        for each in person.below(customer_id)
    )
    step = Step(state, ctx, message.trace)
    step.settle(merge, Person(root_id=customer_id, members=apart))
    step.rows.append(_trail(merge, "unmerged", message, ctx))
    return step.done(Merged(merge=merge, links=tuple(step.links)))


def _confirmed(state: CustomersState, message: Linked) -> Effects:
    awaited = state.awaited.get(message.version)
    if awaited is None:
        return Effects()
    awaited.customer_ids.discard(message.customer_id)
    if awaited.customer_ids:
        return Effects()
    del state.awaited[message.version]
    return Effects(commit=(structs.replace(awaited.merge, settled=True),))


def _settle(
    state: CustomersState, merges: tuple[MergeRow, ...], person: Person | None, ctx: Context
) -> Effects:
    step = Step(state, ctx, "")
    merge = merges[0]
    if person is not None:
        stands = person.member(merge.merged_id).merge
        # What was undone stays so; what stood may have been undone since, and that was told then.
        if merge.undone_at is not None or (stands is not None and stands.id == merge.id):
            step.settle(merge, person)
    if len(merges) > 1:
        step.tells.append(Tell(address_of(state.tenant_id), Settle(merges[1:])))
    return step.done()


def _trail(merge: MergeRow, action: str, message: Any, ctx: Context) -> AuditRow:
    return AuditRow(
        tenant_id=merge.tenant_id,
        id=ctx.new_id(),
        user_id=message.by.id,
        action=action,
        subject=f"customer:{merge.merged_id}",
        before=None,
        after=to_builtins({"merge": merge.id, "survivor": merge.survivor_id}),
        trace=message.trace,
        at=ctx.now,
    )
