"""An account at Twilio: its address and credentials, and whether it works.

Promises   `check_account` makes one harmless read and answers in a sentence, without secrets.
"""

import base64
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec
import trio

from adapters.calling import declined
from adapters.guard import Guard, guarded_client
from adapters.port import Account, Checked, Declined, ErrorClass
from adapters.sms.errors import read_failure
from engine.errors import Unavailable

API_HOST: Final = "api.twilio.com"
API_VERSION: Final = "2010-04-01"
_SECONDS_MAX: Final = 15.0
_facts = msgspec.json.Decoder(dict[str, Any])


def base_url(account: Account) -> str:
    return str(account.settings.get("base_url") or f"https://{API_HOST}").rstrip("/")


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
    """Raises Unavailable when Twilio cannot be reached or has trouble of its own."""
    if (problem := credentials_problem(account)) is not None:
        return Checked(ok=False, detail=problem.message)
    timeout = httpx.Timeout(_SECONDS_MAX, connect=5.0)
    try:
        async with guarded_client(guard, connections_max=1, timeout=timeout) as client:
            with trio.fail_after(_SECONDS_MAX):
                answer = await client.get(
                    account_url(account),
                    headers=authorization(account),
                    extensions={"body_bytes_max": 65_536},
                )
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, trio.TooSlowError) as error:
        raise _unavailable(f"Twilio cannot be reached ({type(error).__name__}).") from error
    if not answer.is_success:
        failure = read_failure(answer.status_code, answer.content, answer.headers.get("retry-after"))
        if not isinstance(failure, Declined):
            raise _unavailable("Twilio has trouble of its own.")
        if failure.error_class in (ErrorClass.TRANSIENT, ErrorClass.RATE_ACCOUNT):
            raise _unavailable(failure.message)
        return Checked(ok=False, detail=failure.message)
    try:
        facts = _facts.decode(answer.content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _unavailable("Twilio's answer cannot be understood.") from None
    status = facts.get("status")
    if status != "active":
        return Checked(ok=False, detail=f"The account at Twilio is {str(status)[:40]}, not active.")
    known = {name: facts[name] for name in ("friendly_name", "type") if isinstance(facts.get(name), str)}
    return Checked(ok=True, detail="Twilio accepts the credentials for this account.", facts=known)


def _unavailable(sentence: str) -> Unavailable:
    return Unavailable(sentence, code="platform_unavailable", retry_after_seconds=5.0)
