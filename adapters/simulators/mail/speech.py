"""How a played mail service tells: mail as Mailgun's routes post it, events as its webhooks do, both signed.

Source      The sheet, sections 1.1 to 1.4. 200 is done, 406 is given up, everything else is repeated.
"""

import hashlib
import hmac
import random
import time
from collections.abc import Callable, Mapping, Sequence
from email.message import EmailMessage
from typing import Any, Final

import msgspec

from adapters.simulators.mail.people import Written
from adapters.simulators.webhooks import Event, Post, Verdict

Json = dict[str, Any]

_ALPHABET: Final = "0123456789abcdef"
TOKEN_LENGTH: Final = 50


class MailgunSpeech:
    """Implements `adapters.simulators.webhooks.Speech`. `raw()` says whether a mail is posted whole."""

    def __init__(self, rng: random.Random, raw: Callable[[], bool]) -> None:
        self._rng = rng
        self._raw = raw

    def post(self, events: Sequence[Event]) -> Post:
        (event,) = events
        change, key = event.change, event.account.mailgun_signing_key
        written = change.get("written")
        if isinstance(written, Written):
            return self._mail(written, key)
        return _json({"signature": self.signature(key), "event-data": change})

    def post_of(self, account: Any, url: str, body: bytes) -> Post:
        """A body of JSON members or of a form's fields, which the signature joins."""
        try:
            members = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Post(body, {"Content-Type": "application/x-www-form-urlencoded"})
        if not isinstance(members, dict):
            return Post(body, {"Content-Type": "application/json"})
        return _json({**members, "signature": self.signature(account.mailgun_signing_key)})

    def company(self, event: Event) -> None:
        return None

    def verdict(self, status: int) -> Verdict:
        if status == 200:
            return "acknowledged"
        return "refused" if status == 406 else "again"

    def signature(self, key: str) -> dict[str, str]:
        timestamp = str(int(time.time()))
        token = "".join(self._rng.choices(_ALPHABET, k=TOKEN_LENGTH))
        signed = hmac.new(key.encode(), f"{timestamp}{token}".encode(), hashlib.sha256)
        return {"timestamp": timestamp, "token": token, "signature": signed.hexdigest()}

    def _mail(self, written: Written, key: str) -> Post:
        mail = written.mime
        fields = {
            "recipient": written.recipient,
            "sender": written.sender,
            "from": str(mail["From"]),
            "subject": str(mail["Subject"] or ""),
            "Message-Id": f"<{written.message_id}>",
            **self.signature(key),
        }
        if self._raw() or written.kind == "report":
            return _multipart({**fields, "body-mime": mail.as_string()}, {})
        plain, html = mail.get_body(("plain",)), mail.get_body(("html",))
        for name, part in (("body-plain", plain), ("body-html", html)):
            if isinstance(part, EmailMessage):
                fields[name] = part.get_content()
        headers = [[name, str(value)] for name, value in mail.items()]
        fields["message-headers"] = msgspec.json.encode(headers).decode()
        files: dict[str, tuple[str, str, bytes]] = {}
        ids = {}
        for number, part in enumerate(_files(mail), 1):
            name = f"attachment-{number}"
            files[name] = (part.get_filename() or "file", part.get_content_type(), part.get_content())
            if part["Content-ID"]:
                ids[str(part["Content-ID"])] = name
        if files:
            fields |= {
                "attachment-count": str(len(files)),
                "content-id-map": msgspec.json.encode(ids).decode(),
            }
        return _multipart(fields, files)


def _files(mail: EmailMessage) -> list[EmailMessage]:
    return [part for part in mail.walk() if not part.is_multipart() and part.get_filename() is not None]


def _json(body: Json) -> Post:
    return Post(msgspec.json.encode(body), {"Content-Type": "application/json"})


def _multipart(fields: Mapping[str, str], files: Mapping[str, tuple[str, str, bytes]]) -> Post:
    boundary = f"sim{hashlib.sha256(repr(sorted(fields.items())).encode()).hexdigest()[:32]}"
    parts = []
    for name, value in fields.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        parts.append(head.encode() + value.encode("utf-8", "surrogateescape") + b"\r\n")
    for name, (filename, media_type, content) in files.items():
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
            f"Content-Type: {media_type}\r\n\r\n"
        )
        parts.append(head.encode() + content + b"\r\n")
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    return Post(body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
