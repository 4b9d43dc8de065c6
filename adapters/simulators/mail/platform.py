"""A mail service and a mail server with the people who write, as one object to script.

Owns        beside what every played platform owns, the service's interface at `/v3/…` and the SMTP server,
            whose address `/__sim/statistics` tells. Both take the same accounts: over SMTP the user is the
            address and the password the API key.
Promises    Mail comes as Mailgun's routes post it, as fields or whole. What the business sends is delivered
            and opened, or comes back, as events of the service; to whom it came by SMTP, a failure comes
            back as a report (DSN).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, Unpack

import msgspec
import trio

from adapters.simulators.ledger import Send
from adapters.simulators.mail.people import Correspondent, Correspondents, Written
from adapters.simulators.mail.reports import FULL, failure_report
from adapters.simulators.mail.server import MailDoor
from adapters.simulators.mail.service import MailAccount, MailService
from adapters.simulators.mail.speech import MailgunSpeech
from adapters.simulators.playing.cast import Json, Said
from adapters.simulators.playing.control import Action, Body
from adapters.simulators.playing.platform import Making, Played
from adapters.simulators.webhooks import Post, now_ms

_SENDS_PER_SECOND: Final = 300
_WHOLE: Final = 0.3
"""How much of the mail is posted whole, as routes to an address that ends in `mime` do."""


class _Greylist(Body, kw_only=True):
    seconds: float


class MailSimulator(Played[MailAccount, Correspondent]):
    """See `adapters.simulators.playing.platform`. Beside its control calls there is
    `POST /__sim/greylist {seconds}`: the SMTP server tells each new recipient to come back after so long."""

    account_field = "address"
    api: MailService

    def __init__(
        self,
        accounts: Sequence[MailAccount],
        **making: Unpack[Making],
    ) -> None:
        super().__init__("email", accounts, **making)
        self._people = Correspondents(self.random("people"), lambda: f"{self.run_id}.{self.next_id()}")
        self.api = MailService(
            self.accounts,
            ledger=self.ledger,
            faults=self.faults,
            accepted=self._accepted,
            expired=self.expired,
            sends_per_second_max=lambda account_id: self.per_second_max(account_id, _SENDS_PER_SECOND),
        )
        self.door = MailDoor(self.api, self.accounts, self.expired)

    @property
    def cast(self) -> Correspondents:
        return self._people

    def speech(self) -> MailgunSpeech:
        rng = self.random("speech")
        return MailgunSpeech(rng, lambda: rng.random() < _WHOLE)

    def actions(self) -> Mapping[str, Action]:
        return {"greylist": self._set_greylist}

    async def start_more(self, nursery: trio.Nursery) -> None:
        await nursery.start(self.door.run)

    def renew_token(self, access_token: str, account_id: str | None = None) -> None:
        account = self.account(account_id)
        self.accounts[account.account_id] = msgspec.structs.replace(account, mailgun_api_key=access_token)
        self.expired.discard(account.account_id)

    def statistics(self) -> dict[str, Any]:
        return {**super().statistics(), "smtp": self.door.address}

    # ── people write ─────────────────────────────────────────────────────────────────────────────

    def compose(self, account: MailAccount, customer: Correspondent, kind: str, text: str | None) -> Said:
        return _said(self._people.write(customer, account.account_id, kind, now_ms(), text))

    def say_more(self, account: MailAccount, customer: Correspondent, send: Send, message: Json) -> None:
        self.send(customer, "reply", self.rng.choice(customer.tongue.answers), account_id=account.account_id)

    # ── what becomes of what the business sends ──────────────────────────────────────────────────

    def _accepted(self, account: MailAccount, send: Send, payload: Json) -> None:
        customer = self.heard(account, send, payload)
        if customer is None:
            return
        customer.told = str(payload["text"])
        rng, settings = self.rng, self.settings
        delay = rng.uniform(*settings.sent_seconds) + rng.uniform(*settings.delivered_seconds)
        if rng.random() < settings.failure_probability:
            self.later(delay, partial(self._tell_failure, account, customer, send, payload))
            return
        self.later(delay, partial(self._tell_event, account, send, payload, "delivered", "delivered"))
        if rng.random() < settings.read_probability:
            delay += rng.uniform(*settings.read_seconds)
            self.later(delay, partial(self._tell_event, account, send, payload, "opened", "read"))

    def _tell_failure(self, account: MailAccount, customer: Correspondent, send: Send, payload: Json) -> None:
        if payload["variables"]:
            self._tell_event(account, send, payload, "failed", "failed")
            return
        # Whoever sends by SMTP hears of a failure by mail.
        report = failure_report(account.account_id, send.id, customer.key, FULL)
        fact = self.fact("status", account, send.id, send.recipient, send.type, status="failed")
        written = Written(
            sender="", recipient=account.account_id, message_id=send.id, kind="report", mime=report
        )
        self.tell_item(account, {"written": written}, (fact,))

    def _tell_event(self, account: MailAccount, send: Send, payload: Json, event: str, status: str) -> None:
        change: Json = {
            "event": event,
            "id": self.next_id(),
            "timestamp": now_ms() / 1000,
            "recipient": send.recipient,
            "message": {"headers": {"message-id": send.id, "to": send.recipient, "from": account.account_id}},
            "user-variables": payload["variables"],
            "envelope": {"sender": account.account_id},
        }
        if event == "failed":
            change |= {
                "severity": "permanent",
                "reason": "bounce",
                "delivery-status": {"code": int(FULL[:3]), "message": FULL},
            }
        fact = self.fact("status", account, send.id, send.recipient, send.type, status=status)
        self.tell_item(account, change, (fact,))

    async def post_raw(self, body: bytes, *, signed: bool = True, account_id: str | None = None) -> str:
        account = self.account(account_id)
        url = self.connected_url(account)
        post = self._sender.speech.post_of(account, url, body) if signed else Post(body, {})
        return await self._sender.post_raw(url, post)

    def _set_greylist(self, body: bytes) -> object:
        self.door.greylist_seconds = msgspec.json.decode(body, type=_Greylist).seconds
        return {"seconds": self.door.greylist_seconds}


def _said(written: Written) -> Said:
    return Said({"written": written}, written.message_id, written.kind)
