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

from adapters.calling import NEVER_SENT, declined, never_sent, seconds_of
from adapters.email.composing import OutMail, mime_of
from adapters.email.errors import service_refusal
from adapters.email.statuses import OUR_ACCOUNT, OUR_MESSAGE
from adapters.port import Accepted, Account, ErrorClass, SendResult, Turn, Unanswered
from adapters.turns import written_in

Json = dict[str, Any]

CALL_SECONDS_MAX: Final = 60.0
"""A mail of megabytes takes a while to be written."""

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

_BOUNDED: Final = {"body_bytes_max": 65_536}
_UNSURE: Final = frozenset({502, 504})
"""From something in front of the service, after it may have passed the request on."""


def service_url(service: str, account: Account, path: str) -> str:
    base = str(account.settings.get("base_url") or BASE_URLS[service])
    return base.rstrip("/") + path


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
    return key if key and key.isascii() and key.isprintable() and " " not in key else None


async def post(
    service: str,
    mail: OutMail,
    *,
    number: int | None,
    account: Account,
    client: httpx.AsyncClient,
    turn: Turn,
    at_ms: int,
) -> SendResult:
    """One attempt. Accepted without a platform id: the mail's own Message-ID names it."""
    key = usable_key(service, account)
    if key is None:
        return declined(ErrorClass.AUTH, "no_key", "The account has no key that mail can be sent with.")
    ours = {} if number is None else {OUR_MESSAGE: str(number), OUR_ACCOUNT: account.external_id}
    headers = authorization(service, key)
    try:
        match service:
            case "mailgun":
                domain = quote(mailgun_domain(account), safe="")
                url = service_url(service, account, f"/v3/{domain}/messages.mime")
                fields = {"to": mail.to, **{f"v:{name}": value for name, value in ours.items()}}
                raw = await trio.to_thread.run_sync(mime_of, mail, at_ms)
                files = {"message": ("message.eml", raw, "message/rfc822")}
                request = client.build_request("POST", url, headers=headers, data=fields, files=files)
            case "sendgrid":
                url = service_url(service, account, "/v3/mail/send")
                request = client.build_request("POST", url, headers=headers, json=_sendgrid(mail, ours))
            case _:
                url = service_url(service, account, "/email")
                stream = account.settings.get("postmark_stream")
                body = _postmark(mail, ours, str(stream) if stream else None)
                request = client.build_request("POST", url, headers=headers, json=body)
        request.extensions = {
            **_BOUNDED,
            "timeout": httpx.Timeout(CALL_SECONDS_MAX, connect=5.0).as_dict(),
            **written_in(turn),
        }
        with trio.fail_after(2 * CALL_SECONDS_MAX):
            answer = await client.send(request)
    except NEVER_SENT as error:
        return never_sent(error)
    except (httpx.HTTPError, httpx.StreamError, trio.TooSlowError) as error:
        return Unanswered(reason=type(error).__name__)
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
