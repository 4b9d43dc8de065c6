"""Does an account work? One harmless read: its newest conversation."""

from adapters.calling import token_problem
from adapters.checking import SECONDS_MAX, lasting
from adapters.guard import Guard
from adapters.port import Account, Checked, Declined
from adapters.tiktok.calling import TikTokClient, api_url, token_header


async def check_account(account: Account, guard: Guard) -> Checked:
    """As `adapters.port.Adapter.check` promises. The token must be one that may read this account's
    conversations."""
    if (problem := token_problem(account)) is not None:
        return Checked(ok=False, detail=problem.message)
    async with TikTokClient(guard, connections_max=1, seconds_max=SECONDS_MAX) as client:
        answer = await client.ask_data(
            "GET",
            api_url(account, "business/message/conversation/list"),
            params={"business_id": account.external_id, "conversation_type": "SINGLE", "limit": "1"},
            headers=token_header(account),
        )
    if isinstance(answer, Declined):
        return Checked(ok=False, detail=lasting(answer).message)
    return Checked(ok=True, detail="TikTok accepts the credentials for this account.")
