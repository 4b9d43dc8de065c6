"""Does an account work? Asks WhatsApp about the number, as a person checks before going live.

Promises   one harmless read; the answer in a sentence, without secrets.
Leaves     what to do about it to the caller.
"""

from typing import Any

import httpx
import msgspec

from adapters.guard import Guard, guarded_client
from adapters.port import Account, Checked, Declined, ErrorClass
from adapters.whatsapp.errors import read_failure
from adapters.whatsapp.media import bearer, call, graph_url
from engine.errors import Unavailable

_SECONDS_MAX = 15.0
_FIELDS = "id,display_phone_number,verified_name,quality_rating"


_facts = msgspec.json.Decoder(dict[str, Any])


async def check_account(account: Account, guard: Guard) -> Checked:
    """Raises Unavailable when WhatsApp cannot be reached or has trouble of its own."""
    timeout = httpx.Timeout(_SECONDS_MAX, connect=5.0)
    async with guarded_client(guard, connections_max=1, timeout=timeout) as client:
        answer = await call(
            client,
            _SECONDS_MAX,
            "GET",
            graph_url(account, account.external_id),
            params={"fields": _FIELDS},
            headers=bearer(account),
        )
    if isinstance(answer, Declined):
        return _declined(answer)
    status, body, retry_after = answer
    if not 200 <= status < 300:
        failure = read_failure(status, body, retry_after)
        if isinstance(failure, Declined):
            return _declined(failure)
        raise Unavailable("WhatsApp's answer cannot be understood.", code="platform_unavailable")
    try:
        facts = _facts.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unavailable("WhatsApp's answer cannot be understood.", code="platform_unavailable") from None
    if str(facts.get("id")) != account.external_id:
        return Checked(ok=False, detail="WhatsApp answered about another number than the one connected.")
    known = {name: facts[name] for name in _FIELDS.split(",") if isinstance(facts.get(name), str)}
    return Checked(ok=True, detail="WhatsApp accepts the credentials for this number.", facts=known)


def _declined(declined: Declined) -> Checked:
    if declined.error_class in (ErrorClass.TRANSIENT, ErrorClass.UNREACHABLE):
        raise Unavailable(declined.message, code="platform_unavailable", retry_after_seconds=5.0)
    return Checked(ok=False, detail=declined.message)
