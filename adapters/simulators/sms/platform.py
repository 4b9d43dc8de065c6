"""SMS through Twilio with its customers, as one object to script.

Owns        beside what every played platform owns, the REST API at `/2010-04-01/…`, files, and who opted out.
Promises    Speaks and answers as the sheet says: form posts signed with their address, tried again as the
            address' fragment asks (`#rc=5&rp=5xx`), status callbacks to the address that came with the
            message, 21610 after STOP until START, 20003 and 20429.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Final, Unpack

import msgspec

from adapters.simulators.ledger import Send
from adapters.simulators.media import MediaStore
from adapters.simulators.playing.cast import Customer, Json, Said
from adapters.simulators.playing.platform import Making, Played
from adapters.simulators.settings import Settings
from adapters.simulators.sms.api import SmsAccount, TwilioApi
from adapters.simulators.sms.people import Texters, shown_as
from adapters.simulators.sms.speech import Overrides, TwilioSpeech
from adapters.simulators.webhooks import Event
from adapters.sms.optout import START, STOP, keyword
from engine.errors import InvalidInput

_SENDS_PER_SECOND: Final = 100
"""Of one account; the sender's own queue takes up what is above its rate."""
_FAILURES: Final = (
    ("undelivered", "30003"),
    ("undelivered", "30005"),
    ("failed", "30007"),
    ("failed", "30008"),
)
_RETRY_GAPS: Final = (0.5,)
_RETRY_SECONDS_MAX: Final = 15.0
"""All tries together (section 3)."""


class SmsSimulator(Played[SmsAccount, Customer]):
    """See `adapters.simulators.playing.platform`."""

    account_field = "sender"
    api: TwilioApi

    def __init__(
        self,
        accounts: Sequence[SmsAccount],
        **making: Unpack[Making],
    ) -> None:
        self._overrides = Overrides()
        super().__init__("sms", accounts, **making)
        self._tries()
        self._media = MediaStore(3_600.0, 10**15 + time.time_ns() // 1_000)
        self.api = TwilioApi(
            self.accounts,
            ledger=self.ledger,
            media=self._media,
            faults=self.faults,
            new_sid=self._new_sid,
            accepted=self._accepted,
            expired=self.expired,
            sends_per_second_max=lambda account_id: self.per_second_max(account_id, _SENDS_PER_SECOND),
            base_url=lambda: self.base_url,
        )
        self._texters = Texters(self.random("people"), self._new_sid, self.api.file_url)

    @property
    def cast(self) -> Texters:
        return self._texters

    def speech(self) -> TwilioSpeech:
        return TwilioSpeech(lambda: self._overrides)

    def use(self, account: SmsAccount, callback_url: str | None) -> None:
        super().use(account, callback_url)
        if callback_url is not None:
            self._overrides = Overrides.of(callback_url)
            self._tries()

    def renew_token(self, access_token: str, account_id: str | None = None) -> None:
        account = self.account(account_id)
        self.accounts[account.account_id] = msgspec.structs.replace(account, auth_token=access_token)
        self.expired.discard(account.account_id)

    # ── customers speak ──────────────────────────────────────────────────────────────────────────

    def compose(self, account: SmsAccount, customer: Customer, kind: str, text: str | None) -> Said:
        said = self._texters.say(account.account_id, account.account_sid, customer, kind, text)
        # Twilio acts on the words itself, before the business hears of them.
        match keyword(str(said.item["Body"])):
            case word if word == STOP:
                self.api.opted_out.add((account.account_id, customer.key))
            case word if word == START:
                self.api.opted_out.discard((account.account_id, customer.key))
        return said

    def said_by_hand(self, account: SmsAccount, customer: Customer, item: Json) -> Said:
        """Parameters of a form beside, or in place of, those of a text."""
        said = self.compose(account, customer, "text", str(item.get("Body", "")))
        if not all(isinstance(value, str) for value in item.values()):
            raise InvalidInput("an item's members are texts, as a form's are")
        return Said({**said.item, **item}, str(item.get("MessageSid", said.fact_id)), "item")

    # ── the platform's reactions to a send ───────────────────────────────────────────────────────

    def _accepted(self, account: SmsAccount, send: Send, form: Json) -> None:
        customer = self.heard(account, send, form)
        callback = form.get("StatusCallback")
        if customer is None or callback is None:
            return
        rng, settings = self.rng, self.settings
        ending, code = "delivered", ""
        if rng.random() < settings.failure_probability:
            ending, code = rng.choice(_FAILURES)
        delays = [rng.uniform(*settings.sent_seconds)]
        delays.append(delays[0] + rng.uniform(*settings.delivered_seconds))
        if rng.random() < settings.status_disorder_probability:
            delays.reverse()
        for status, delay in zip(("sent", ending), delays, strict=True):
            error = code if status == ending else ""
            self.later(delay, partial(self._tell_status, account, send, form, status, error))

    def _tell_status(self, account: SmsAccount, send: Send, form: Json, status: str, code: str) -> None:
        item = {
            "SmsSid": send.id,
            "SmsStatus": status,
            "MessageStatus": status,
            "To": form["To"],
            "MessageSid": send.id,
            "AccountSid": account.account_sid,
            "From": shown_as(account.account_id),
            "ApiVersion": "2010-04-01",
            **({"ErrorCode": code} if code else {}),
            **(
                {"RawDlrDoneDate": time.strftime("%y%m%d%H%M", time.gmtime())}
                if status == "delivered"
                else {}
            ),
        }
        shown = status if status in ("sent", "delivered") else "failed"
        fact = self.fact("status", account, send.id, send.recipient, send.type, status=shown)
        self.ledger.ensure_room()
        self.webhooks.tell(Event(account, str(form["StatusCallback"]), item, (fact,)))
        self.ledger.record_fact(fact)

    # ── within ───────────────────────────────────────────────────────────────────────────────────

    def _tries(self) -> None:
        given, usual = self.settings.retry_gaps_seconds, Settings().retry_gaps_seconds
        self.settings = msgspec.structs.replace(
            self.settings,
            retry_gaps_seconds=_RETRY_GAPS if given == usual else given,
            retry_seconds_max=_RETRY_SECONDS_MAX,
            retries_max=self._overrides.retries,
        )

    def _new_sid(self, prefix: str) -> str:
        """As long as the platform's: two letters and 32 hexadecimal digits."""
        return f"{prefix}{self.run_id}{int(self.next_id()):022x}"
