"""Does an account work? One harmless read at the service, or a login at the mail server."""

from typing import Final
from urllib.parse import quote

import httpx
import trio

from adapters.email.client import mail_server, open_server
from adapters.email.describing import provider_of
from adapters.email.errors import service_refusal
from adapters.email.posting import authorization, mailgun_domain, service_url, usable_key
from adapters.guard import Guard, guarded_client
from adapters.port import Account, Checked, Declined, ErrorClass
from engine.errors import Unavailable

_SECONDS_MAX: Final = 20.0
_LABELS: Final = {"mailgun": "Mailgun", "sendgrid": "SendGrid", "postmark": "Postmark"}


async def check_account(account: Account, guard: Guard) -> Checked:
    """Raises Unavailable when nobody answers there, or has trouble of its own."""
    provider = provider_of(account)
    if provider == "mailbox":
        return await _check_server(account, guard)
    return await _check_service(provider, account, guard)


async def _check_server(account: Account, guard: Guard) -> Checked:
    server = mail_server(account)
    if server is None:
        return Checked(ok=True, detail="Nothing was asked: without a mail server the account only receives.")
    opened = await open_server(server, guard, ehlo=account.external_id.rpartition("@")[2])
    if isinstance(opened, Declined):
        return _declined(opened)
    opened.cut()
    return Checked(ok=True, detail="The mail server accepts the login.")


async def _check_service(service: str, account: Account, guard: Guard) -> Checked:
    key = usable_key(service, account)
    if key is None:
        return Checked(ok=False, detail=f"The account has no key for {_LABELS[service]}.")
    path = {
        "mailgun": f"/v3/domains/{quote(mailgun_domain(account), safe='')}",
        "sendgrid": "/v3/scopes",
        "postmark": "/server",
    }[service]
    timeout = httpx.Timeout(_SECONDS_MAX, connect=5.0)
    try:
        async with guarded_client(guard, connections_max=1, timeout=timeout) as client:
            with trio.fail_after(_SECONDS_MAX):
                answer = await client.get(
                    service_url(service, account, path),
                    headers={**authorization(service, key), "Accept": "application/json"},
                    extensions={"body_bytes_max": 262_144},
                )
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, trio.TooSlowError) as error:
        raise Unavailable(
            f"{_LABELS[service]} cannot be reached ({type(error).__name__}).",
            code="platform_unavailable",
            retry_after_seconds=5.0,
        ) from error
    if answer.is_success:
        return Checked(ok=True, detail=f"{_LABELS[service]} accepts the key for this domain.")
    return _declined(service_refusal(f"{service}_http_{answer.status_code}", ""))


def _declined(declined: Declined) -> Checked:
    if declined.error_class in (ErrorClass.TRANSIENT, ErrorClass.UNREACHABLE, ErrorClass.RATE_ACCOUNT):
        raise Unavailable(declined.message, code="platform_unavailable", retry_after_seconds=5.0)
    return Checked(ok=False, detail=declined.message)
