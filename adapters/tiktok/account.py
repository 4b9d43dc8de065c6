"""Does an account work? One harmless read: its newest conversation."""

from typing import Final

import httpx
import msgspec

from adapters.calling import token_problem
from adapters.guard import Guard, guarded_client
from adapters.port import Account, Checked, Declined, ErrorClass
from adapters.tiktok.calling import again, api_url, call, token_header
from engine.errors import Unavailable

_SECONDS_MAX: Final = 15.0
_LATER: Final = frozenset({ErrorClass.TRANSIENT, ErrorClass.UNREACHABLE, ErrorClass.RATE_ACCOUNT})


async def check_account(account: Account, guard: Guard) -> Checked:
    """The token must be one that may read this account's conversations. Raises Unavailable when the platform
    cannot be reached or has trouble of its own."""
    if (problem := token_problem(account)) is not None:
        return Checked(ok=False, detail=problem.message)
    timeout = httpx.Timeout(_SECONDS_MAX, connect=5.0)
    async with guarded_client(guard, connections_max=1, timeout=timeout) as client:
        answer = await call(
            client,
            "GET",
            api_url(account, "business/message/conversation/list"),
            seconds_max=_SECONDS_MAX,
            params={"business_id": account.external_id, "conversation_type": "SINGLE", "limit": "1"},
            headers=token_header(account),
        )
    if isinstance(answer, msgspec.Raw):
        return Checked(ok=True, detail="TikTok accepts the credentials for this account.")
    refused: Declined = again(answer)
    if refused.error_class in _LATER:
        raise Unavailable(refused.message, code="platform_unavailable", retry_after_seconds=5.0)
    return Checked(ok=False, detail=refused.message)
