"""An account at Twilio: its address and credentials, and whether it works.

Promises   `check_account` makes one harmless read and answers in a sentence, without secrets.
"""

import base64
from typing import Any, Final
from urllib.parse import quote

import msgspec

from adapters.calling import declined
from adapters.checking import SECONDS_MAX, lasting, unreadable
from adapters.client import PlatformClient
from adapters.guard import Guard
from adapters.port import Account, Checked, Declined, ErrorClass
from adapters.sms.errors import LABEL, read_failure
from adapters.wire import decoded

API_HOST: Final = "api.twilio.com"
API_VERSION: Final = "2010-04-01"
_facts: Final = msgspec.json.Decoder(dict[str, Any])


def base_url(account: Account) -> str:
    return account.base_url(f"https://{API_HOST}")


def account_url(account: Account, *path: str) -> str:
    """`.json` goes to the end of the last part."""
    parts = ("Accounts", str(account.settings.get("account_sid") or ""), *path)
    return "/".join((base_url(account), API_VERSION, *(quote(part, safe="") for part in parts))) + ".json"


def authorization(account: Account) -> dict[str, str]:
    """By the API key where there is one, else by the account's token."""
    held = account.credentials
    key, secret = held.get("api_key"), held.get("api_secret")
    if not (key and secret):
        key, secret = str(account.settings.get("account_sid") or ""), held.get("auth_token", "")
    return {"Authorization": f"Basic {base64.b64encode(f'{key}:{secret}'.encode()).decode()}"}


def credentials_problem(account: Account) -> Declined | None:
    """Why the account cannot be used at all; None when it can."""
    if not account.settings.get("account_sid"):
        return declined(ErrorClass.AUTH, "no_account_sid", "The AccountSid is missing. Connect it again.")
    if not account.credentials.get("auth_token"):
        return declined(ErrorClass.AUTH, "no_token", "The account has no auth token. Connect it again.")
    return None


async def check_account(account: Account, guard: Guard) -> Checked:
    """As `adapters.port.Adapter.check` promises."""
    if (problem := credentials_problem(account)) is not None:
        return Checked(ok=False, detail=problem.message)
    async with PlatformClient(
        guard, LABEL, read_failure, connections_max=1, seconds_max=SECONDS_MAX
    ) as client:
        answer = await client.ask("GET", account_url(account), headers=authorization(account))
    if isinstance(answer, Declined):
        return Checked(ok=False, detail=lasting(answer).message)
    facts = decoded(_facts, answer.content)
    if facts is None:
        raise unreadable(LABEL)
    status = facts.get("status")
    if status != "active":
        return Checked(ok=False, detail=f"The account at Twilio is {str(status)[:40]}, not active.")
    known = {name: facts[name] for name in ("friendly_name", "type") if isinstance(facts.get(name), str)}
    return Checked(ok=True, detail="Twilio accepts the credentials for this account.", facts=known)
