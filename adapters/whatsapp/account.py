"""Does an account work? Asks WhatsApp about the number, as a person checks before going live."""

from typing import Any, Final

import msgspec

from adapters.calling import token_problem
from adapters.checking import SECONDS_MAX, lasting, unreadable
from adapters.client import PlatformClient
from adapters.guard import Guard
from adapters.meta.graph import bearer, graph_url
from adapters.port import Account, Checked, Declined
from adapters.whatsapp.errors import read_failure
from adapters.whatsapp.limits import LABEL
from adapters.wire import decoded

_FIELDS: Final = "id,display_phone_number,verified_name,quality_rating"
_facts: Final = msgspec.json.Decoder(dict[str, Any])


async def check_account(account: Account, guard: Guard) -> Checked:
    """As `adapters.port.Adapter.check` promises: one harmless read, answered in a sentence without
    secrets."""
    if (problem := token_problem(account)) is not None:
        return Checked(ok=False, detail=problem.message)
    async with PlatformClient(
        guard, LABEL, read_failure, connections_max=1, seconds_max=SECONDS_MAX
    ) as client:
        answer = await client.ask(
            "GET",
            graph_url(account, account.external_id),
            params={"fields": _FIELDS},
            headers=bearer(account),
        )
    if isinstance(answer, Declined):
        return Checked(ok=False, detail=lasting(answer).message)
    facts = decoded(_facts, answer.content)
    if facts is None:
        raise unreadable(LABEL)
    if str(facts.get("id")) != account.external_id:
        return Checked(ok=False, detail="WhatsApp answered about another number than the one connected.")
    known = {name: facts[name] for name in _FIELDS.split(",") if isinstance(facts.get(name), str)}
    return Checked(ok=True, detail="WhatsApp accepts the credentials for this number.", facts=known)
