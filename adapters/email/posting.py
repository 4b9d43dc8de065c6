"""Mail through the HTTP interfaces of mail services: Mailgun, SendGrid, Postmark.

Promises    One request for a mail, which is written at its turn. What a service answers with a success is
            Accepted; an error of its own is Declined by code; an answer from something in front of it, or
            none, leaves the outcome unknown.
            Our message's id and account travel along, and come back with what is told of it.
Source      The sheet, sections 1.5, 2.5 and 3.4; unconfirmed: that SendGrid keeps our Message-ID, and that
            Postmark does with `X-PM-KeepID`. Where they do not, answers are matched by the reply address.
"""

import base64
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec
import trio

from adapters.calling import declined, is_token, seconds_of
from adapters.client import PlatformClient
from adapters.email.composing import OutMail, mime_of
from adapters.email.errors import service_refusal
from adapters.email.statuses import OUR_ACCOUNT, OUR_MESSAGE
from adapters.port import Accepted, Account, ErrorClass, SendResult, Turn, Unanswered
from adapters.wire import Json

CALL_SECONDS_MAX: Final = 120.0
"""A mail of 25 MB at 200 kB/s."""

BASE_URLS: Final = {
    "mailgun": "https://api.mailgun.net",
    "sendgrid": "https://api.sendgrid.com",
    "postmark": "https://api.postmarkapp.com",
}
KEYS: Final = {
    "mailgun": "mailgun_api_key",
    "sendgrid": "sendgrid_api_key",
    "postmark": "postmark_server_token",
}

_UNSURE: Final = frozenset({502, 504})
"""From something in front of the service, after it may have passed the request on."""


def service_url(service: str, account: Account, path: str) -> str:
    return account.base_url(BASE_URLS[service]) + path


def mailgun_domain(account: Account) -> str:
    return str(account.settings.get("mailgun_domain") or account.external_id.rpartition("@")[2])


def authorization(service: str, key: str) -> dict[str, str]:
    match service:
        case "mailgun":
            return {"Authorization": f"Basic {base64.b64encode(f'api:{key}'.encode()).decode('ascii')}"}
        case "sendgrid":
            return {"Authorization": f"Bearer {key}"}
        case _:
            return {"X-Postmark-Server-Token": key}


def usable_key(service: str, account: Account) -> str | None:
    key = account.credentials.get(KEYS[service], "")
    return key if is_token(key) else None


async def post(
    service: str,
    mail: OutMail,
    *,
    number: int | None,
    account: Account,
    client: PlatformClient,
    turn: Turn,
    at_ms: int,
) -> SendResult:
    """One attempt. Accepted without a platform id: the mail's own Message-ID names it."""
    key = usable_key(service, account)
    if key is None:
        return declined(ErrorClass.AUTH, "no_key", "The account has no key that mail can be sent with.")
    ours = {} if number is None else {OUR_MESSAGE: str(number), OUR_ACCOUNT: account.external_id}
    content: dict[str, Any]
    match service:
        case "mailgun":
            path = f"/v3/{quote(mailgun_domain(account), safe='')}/messages.mime"
            raw = await trio.to_thread.run_sync(mime_of, mail, at_ms)
            content = {
                "data": {"to": mail.to, **{f"v:{name}": value for name, value in ours.items()}},
                "files": {"message": ("message.eml", raw, "message/rfc822")},
            }
        case "sendgrid":
            path, content = "/v3/mail/send", {"json": _sendgrid(mail, ours)}
        case _:
            stream = account.settings.get("postmark_stream")
            path, content = "/email", {"json": _postmark(mail, ours, str(stream) if stream else None)}
    answer = await client.exchange(
        "POST",
        service_url(service, account, path),
        headers=authorization(service, key),
        turn=turn,
        **content,
    )
    if not isinstance(answer, httpx.Response):
        return answer
    return read_answer(service, answer.status_code, answer.content, answer.headers)


def read_answer(service: str, status: int, body: bytes, headers: Mapping[str, str]) -> SendResult:
    """What a service's answer means."""
    said, code = _said(body)
    if 200 <= status < 300:
        if service == "postmark" and code:
            return service_refusal(f"postmark_{code}", said)
        # SendGrid says nothing; the others name the mail.
        if service != "sendgrid" and not said:
            return Unanswered(reason="a success that cannot be read")
        return Accepted(platform_id="")
    wait = seconds_of(headers.get("retry-after"))
    if status in _UNSURE or (status >= 500 and not said and status != 503):
        return Unanswered(reason=f"HTTP {status} without an error that can be read")
    if service == "postmark" and code and status == 422:
        return service_refusal(f"postmark_{code}", said, retry_after_seconds=wait)
    return service_refusal(f"{service}_http_{status}", said, retry_after_seconds=wait)


def _said(body: bytes) -> tuple[str, int]:
    """The service's sentence, and Postmark's code."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", 0
    if not isinstance(found, dict):
        return "", 0
    code = found.get("ErrorCode")
    errors = found.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else {}
    said = next(
        (
            text
            for text in (
                found.get("message"),
                found.get("Message"),
                first.get("message") if isinstance(first, dict) else first,
            )
            if isinstance(text, str)
        ),
        "",
    )
    return said, code if isinstance(code, int) and not isinstance(code, bool) else 0


def _sendgrid(mail: OutMail, ours: Mapping[str, str]) -> Json:
    content = [{"type": "text/plain", "value": mail.text}]
    if mail.html is not None:
        content.append({"type": "text/html", "value": mail.html})
    body: Json = {
        "personalizations": [{"to": [{"email": mail.to}]}],
        "from": {"email": mail.from_address, **({"name": mail.from_name} if mail.from_name else {})},
        "subject": mail.subject,
        "content": content,
        "headers": dict(mail.headers),
    }
    if ours:
        body["custom_args"] = dict(ours)
    if mail.reply_to is not None:
        body["reply_to"] = {"email": mail.reply_to}
    if mail.files:
        body["attachments"] = [
            {
                "content": base64.b64encode(file.content).decode("ascii"),
                "filename": file.filename,
                "type": file.media_type,
                "disposition": "attachment",
            }
            for file in mail.files
        ]
    return body


def _postmark(mail: OutMail, ours: Mapping[str, str], stream: str | None) -> Json:
    name = mail.from_name.replace("\\", "").replace('"', "'")
    body: Json = {
        "From": f'"{name}" <{mail.from_address}>' if name else mail.from_address,
        "To": mail.to,
        "Subject": mail.subject,
        "TextBody": mail.text,
        "Headers": [
            *({"Name": header, "Value": value} for header, value in mail.headers),
            {"Name": "X-PM-KeepID", "Value": "true"},
        ],
        "Metadata": dict(ours),
    }
    if mail.html is not None:
        body["HtmlBody"] = mail.html
    if mail.reply_to is not None:
        body["ReplyTo"] = mail.reply_to
    if stream is not None:
        body["MessageStream"] = stream
    if mail.files:
        body["Attachments"] = [
            {
                "Name": file.filename,
                "Content": base64.b64encode(file.content).decode("ascii"),
                "ContentType": file.media_type,
            }
            for file in mail.files
        ]
    return body
