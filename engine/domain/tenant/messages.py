"""What a tenant's actor can be asked: changes of the configuration, which it alone writes.

Address: (kind "tenant", tenant, "config"). Every change is validated against the present snapshot,
committed with an audit row, and in force (TenantConfig replaced) before the answer is released.
"""

from typing import Any

from msgspec import Struct

from engine.domain.conversation.messages import By
from engine.runtime import Address

KIND = "tenant"


def address_of(tenant_id: int) -> Address:
    return Address(KIND, tenant_id, "config")


class Save(Struct, frozen=True, tag=True, kw_only=True):
    """Creates (`id` None, or given with `create`) or changes one entity. Answer: the entity as in
    engine/domain/config.py (Agent, Channel, Tag, ReplyRule, AssignmentSettings, ConversationSettings,
    or Week | None).

    `kind`: agent | channel | tag | rule | assignment | conversations | work_hours. `values` holds the
    members to set, by their names in config.py (already typed: a Week where a Week is meant); on
    creation all that have no default must be there. For work_hours: {"week": Week | None}.
    Refusals: NotFound; Conflicting (name, e-mail or account in use; last_owner); InvalidInput.
    """

    kind: str
    values: dict[str, Any]
    by: By
    id: int | None = None
    create: bool = False
    trace: str = ""


class Remove(Struct, frozen=True, tag=True, kw_only=True):
    """Removes an agent, channel, tag or rule. Answer: None. Refusals: NotFound, Conflicting (last_owner)."""

    kind: str
    id: int
    by: By
    trace: str = ""


class NeedAttention(Struct, frozen=True, tag=True, kw_only=True):
    """A person has to act on a channel, says its platform. Answer: Received, `applied` or `ignored`.

    It is about the credentials that `credentials_at` names, or else about what was in force at `at`; ignored
    when they have been replaced since, when the channel is disabled or gone, and when it says so already.
    `halts`: the credentials hold no more, so the channel keeps what it has until there are new ones."""

    channel_id: int
    note: str
    halts: bool
    credentials_at: int | None = None
    at: int | None = None
    trace: str = ""


TenantCommand = Save | Remove | NeedAttention
