"""The HTTP interface of the played mail service: mail that the business sends, and its domain.

Source      The sheet, section 1.5. A send is never idempotent.
"""

import base64
from collections.abc import Callable, Collection, Mapping
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any, Final

import trio
from msgspec import Struct

from adapters.email.forms import Form, read_form
from adapters.simulators.faults import FaultBook, Route
from adapters.simulators.http import Request, Response, json_response
from adapters.simulators.ledger import Ledger, Send
from adapters.simulators.limits import AccountLimits
from adapters.simulators.playing.calls import Calls, Refusal
from adapters.simulators.webhooks import now_ms
from engine.errors import InvalidInput

Json = dict[str, Any]

MESSAGE_BYTES_MAX: Final = 25 * 1024 * 1024
_SENTENCES: Final = {401: "Forbidden", 404: "Domain not found", 429: "Too many requests"}


class MailAccount(Struct, frozen=True, kw_only=True):
    """An address, as the service and the business both know it."""

    account_id: str
    mailgun_api_key: str
    mailgun_signing_key: str
    reply_secret: str

    @property
    def access_token(self) -> str:
        return self.mailgun_api_key

    @property
    def domain(self) -> str:
        return self.account_id.partition("@")[2]


class Received(Struct, frozen=True, kw_only=True):
    """A mail of the business, taken apart. `variables` came beside it."""

    message_id: str
    sender: str
    to: str
    mail: EmailMessage
    variables: Mapping[str, str]


Accepted = Callable[[MailAccount, Send, Json], None]


class MailService(Calls):
    """What others see of it is in the ledger and the fault book."""

    call_bytes_max = MESSAGE_BYTES_MAX + 65_536
    """A mail, and the form around it."""

    def __init__(
        self,
        accounts: Mapping[str, MailAccount],
        *,
        ledger: Ledger,
        faults: FaultBook,
        accepted: Accepted,
        expired: Collection[str],
        sends_per_second_max: Callable[[str], int],
    ) -> None:
        super().__init__(ledger=ledger, faults=faults)
        self._accounts = accounts
        self._accepted = accepted
        self._expired = expired
        self._limits = AccountLimits(sends_per_second_max)

    def route(self, request: Request) -> tuple[Route, str | None]:
        if request.method == "POST" and request.path.endswith("/messages.mime"):
            return "send", None
        return "management", None

    def written(self, refused: Refusal) -> Response:
        status = refused.status or (refused.code if 400 <= refused.code < 600 else 400)
        return json_response({"message": refused.message}, status)

    def do(self, request: Request) -> tuple[Response, Send | None]:
        parts = request.path.strip("/").split("/")
        account = self._authorised(request)
        match (request.method, parts):
            case ("POST", ["v3", domain, "messages.mime"]):
                self._ensure_own(account, domain)
                return self._send(account, request.body)
            case ("GET", ["v3", "domains", domain]):
                self._ensure_own(account, domain)
                return json_response({"domain": {"name": domain, "state": "active"}}), None
            case _:
                raise Refusal(404, "Not found")

    def take(self, account: MailAccount, received: Received) -> Send:
        """A mail of the business was accepted, by whichever way it came. Raises Refusal."""
        if not self._limits.admit(account.account_id, trio.current_time()):
            raise Refusal(429, _SENTENCES[429])
        self.ledger.ensure_room()
        files = [part.get_filename() or "" for part in received.mail.iter_attachments()]
        body = received.mail.get_body(("plain",))
        text = body.get_content() if isinstance(body, EmailMessage) else ""
        send = Send(
            id=received.message_id,
            phone_number_id=account.account_id,
            recipient=received.to,
            type="document" if files else "text",
            callback_data=received.variables.get("mijra_message"),
            accepted_at=now_ms(),
        )
        payload: Json = {
            "to": received.to,
            "subject": str(received.mail["Subject"] or ""),
            "text": text,
            "files": files,
            "headers": [[name, str(value)] for name, value in received.mail.items()],
            "variables": dict(received.variables),
        }
        self.ledger.record_send(send, payload)
        self._accepted(account, send, payload)
        return send

    def _send(self, account: MailAccount, body: bytes) -> tuple[Response, Send]:
        try:
            form = read_form(body)
        except InvalidInput as error:
            raise Refusal(400, error.message) from error
        upload = form.files.get("message")
        to = form.text("to")
        if upload is None or not to:
            raise Refusal(400, "to and message are required")
        received = opened(upload.content, sender=account.account_id, to=to, variables=_variables(form))
        send = self.take(account, received)
        return json_response({"id": f"<{send.id}>", "message": "Queued. Thank you."}), send

    def _authorised(self, request: Request) -> MailAccount:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        try:
            key = base64.b64decode(given).decode().partition(":")[2] if scheme.lower() == "basic" else ""
        except ValueError:
            key = ""
        for account in self._accounts.values():
            if key and account.access_token == key and account.account_id not in self._expired:
                return account
        raise Refusal(401, _SENTENCES[401])

    def _ensure_own(self, account: MailAccount, domain: str) -> None:
        if domain != account.domain:
            raise Refusal(404, _SENTENCES[404])


def opened(raw: bytes, *, sender: str, to: str, variables: Mapping[str, str]) -> Received:
    """Raises Refusal for what is no mail."""
    mail = message_from_bytes(raw, _class=EmailMessage, policy=default)
    message_id = str(mail["Message-ID"] or "").strip().strip("<>")
    if not message_id or not mail["From"]:
        raise Refusal(400, "the message has no From or no Message-ID")
    return Received(message_id=message_id, sender=sender, to=to.lower(), mail=mail, variables=variables)


def _variables(form: Form) -> dict[str, str]:
    return {name.removeprefix("v:"): form.text(name) or "" for name in form.fields if name.startswith("v:")}
