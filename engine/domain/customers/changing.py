"""How a customer's row changes, whoever writes it: the contact's actor, or the customers actor for one
without a contact. Pure."""

from typing import Any

from msgspec import structs

from engine.domain.conversation.messages import ChangeCustomer, Link
from engine.domain.rows import AuditRow, CustomerRow
from engine.runtime import Context

CHANGEABLE = ("name", "email", "phone", "locale", "timezone", "attributes")
"""What people may change; the rest is the platform's or ours."""


def apply_values(row: CustomerRow, message: ChangeCustomer, ctx: Context) -> AuditRow | None:
    """Puts the values in and says what goes into the audit log; None when they were there already."""
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for name in CHANGEABLE:
        if name in message.values and message.values[name] != getattr(row, name):
            before[name], after[name] = getattr(row, name), message.values[name]
            setattr(row, name, message.values[name])
    named = "name" in message.values and not row.named_by_hand
    row.named_by_hand = row.named_by_hand or named
    if not after and not named:
        return None
    return audit(row, "changed", before, after, message, ctx)


def apply_link(row: CustomerRow, link: Link) -> str | None:
    """Shows the row as another customer, or as itself; the name of the event that tells it, None when the row
    has this link or a newer one."""
    if link.version <= row.link_version:
        return None
    before = row.merged_into
    into = link.into
    row.link_version = link.version
    row.merged_into = into.id if into is not None else None
    row.shown_name = into.name if into is not None else None
    row.shown_avatar_url = into.avatar_url if into is not None else None
    if row.merged_into == before:
        return "customer.updated"
    return "customer.merged" if into is not None else "customer.unmerged"


def audit(
    row: CustomerRow,
    action: str,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
    message: Any,
    ctx: Context,
) -> AuditRow:
    return AuditRow(
        tenant_id=row.tenant_id,
        id=ctx.new_id(),
        user_id=message.by.id,
        action=action,
        subject=f"customer:{row.id}",
        before=before,
        after=after,
        trace=message.trace,
        at=ctx.now,
    )


def copied(row: CustomerRow) -> CustomerRow:
    """A row to change, for whoever has it from a look-up."""
    return structs.replace(row)
