"""Does an account work? One harmless read at the service, or a login at the mail server."""

from collections.abc import Mapping
from functools import partial
from typing import Final
from urllib.parse import quote

from adapters.checking import SECONDS_MAX, lasting
from adapters.client import PlatformClient
from adapters.email.client import mail_server, open_server
from adapters.email.describing import provider_of
from adapters.email.errors import service_refusal
from adapters.email.posting import authorization, mailgun_domain, service_url, usable_key
from adapters.guard import Guard
from adapters.port import Account, Checked, Declined

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
        return Checked(ok=False, detail=lasting(opened).message)
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
    label = _LABELS[service]
    async with PlatformClient(
        guard, label, partial(_refused, service), connections_max=1, seconds_max=SECONDS_MAX
    ) as client:
        answer = await client.ask(
            "GET",
            service_url(service, account, path),
            headers={**authorization(service, key), "Accept": "application/json"},
            # A domain at Mailgun brings its records, and SendGrid's scopes are some hundred words.
            answer_bytes_max=262_144,
        )
    if isinstance(answer, Declined):
        return Checked(ok=False, detail=lasting(answer).message)
    return Checked(ok=True, detail=f"{label} accepts the key for this domain.")


def _refused(service: str, status: int, body: bytes, headers: Mapping[str, str]) -> Declined:
    return service_refusal(f"{service}_http_{status}", "")
