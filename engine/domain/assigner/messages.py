"""What the assigner of a tenant can be told. Address: (kind "assigner", tenant, "assigner")."""

from typing import Final

from msgspec import Struct

from engine.runtime import Address

KIND = "assigner"

ASSIGNER_LOAD: Final = frozenset({"round_robin", "least_loaded"})
"""Modes in which the assigner works, and so must hear of agents' loads."""


def address_of(tenant_id: int) -> Address:
    return Address(KIND, tenant_id, "assigner")


class Want(Struct, frozen=True, tag=True):
    """A conversation without an agent needs one."""

    conversation_id: int
    channel_id: int
    contact_key: str


class LoadChanged(Struct, frozen=True, tag=True):
    """An open conversation left `before` and reached `after` (None: nobody)."""

    conversation_id: int
    before: int | None
    after: int | None


class Declined(Struct, frozen=True, tag=True):
    """The conversation did not take the agent it was given: someone was faster, or it is closed."""

    conversation_id: int
    user_id: int


class Reconsider(Struct, frozen=True, tag=True):
    """Agents, hours or settings have changed, or an opening has come: look at who waits again.
    `afresh`: reload loads and waiting ones from the store first (the mode has changed, or a start).
    `twice`: and once more soon, when what was decided under the old mode is committed too."""

    afresh: bool = False
    twice: bool = False


AssignerMessage = Want | LoadChanged | Declined | Reconsider
