"""The people who text, and their messages as Twilio's forms.

Promises    The same seed gives the same people saying the same things. Numbers are those for fiction (NANPA's
            555-01XX), so that nobody is ever texted by mistake.
"""

import random
from collections.abc import Callable, Mapping
from typing import Final

from adapters.simulators.media import mp4_beginning, png, silent_voice_note
from adapters.simulators.phrases import TONGUES, Tongue
from adapters.simulators.playing.cast import Cast, Customer, Said
from adapters.sms.segments import segments
from engine.errors import InvalidInput

KINDS: Final[Mapping[str, float]] = {
    "text": 86.0,
    "image": 6.0,
    "images": 2.0,
    "video": 1.0,
    "audio": 1.0,
    "card": 1.0,
    "emoji": 3.0,
    # Said only when asked for: after them the business may not write.
    "stop": 0.0,
    "start": 0.0,
    "help": 0.0,
}
_WORDS: Final = {"stop": "STOP", "start": "START", "help": "HELP"}
_CARD: Final = b"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:Zoe Doe\r\nTEL:+15550100199\r\nEND:VCARD\r\n"

POOL: Final = "+15005550199"
"""The number of a played Messaging Service: which one is used, the service chooses, not the business."""

FileUrl = Callable[[str, str, str, bytes], str]
"""(account's sender, message's sid, media type, content) -> where the file can be fetched."""


def shown_as(sender: str) -> str:
    """What people see of a sender of this account id."""
    return POOL if sender.startswith("MG") else sender.partition("@")[0]


class Texters(Cast[Customer]):
    def __init__(self, rng: random.Random, new_sid: Callable[[str], str], file_url: FileUrl) -> None:
        super().__init__(rng, kinds=KINDS, key_pattern=r"[1-9][0-9]{6,14}")
        self._new_sid = new_sid
        self._file_url = file_url
        self._numbers = rng.randrange(10**4)

    def made(self, key: str, name: str, tongue: Tongue) -> Customer:
        return Customer(key, name, tongue)

    def invent(self) -> Customer:
        # 100 numbers for fiction in each of the area codes from 200 on.
        number = self._numbers = self._numbers + 1
        key = f"1{200 + number // 100 % 800}55501{number % 100:02d}"
        if self.find(key) is not None:
            return self.invent()
        tongue = self.rng.choice(TONGUES)
        return Customer(key, self.name(tongue), tongue)

    def say(self, sender: str, account_sid: str, customer: Customer, kind: str, text: str | None) -> Said:
        if kind not in KINDS:
            raise InvalidInput(f"kind is one of {', '.join(KINDS)}")
        files = self._files(kind)
        sid = self._new_sid("MM" if files else "SM")
        body = text if text is not None else self._body(customer, kind)
        form = {
            "ToCountry": "US",
            "ToState": "",
            "SmsMessageSid": sid,
            "NumMedia": str(len(files)),
            "ToCity": "",
            "FromZip": "",
            "SmsSid": sid,
            "FromState": "NY",
            "SmsStatus": "received",
            "FromCity": "",
            "Body": body,
            "FromCountry": "US",
            "To": shown_as(sender),
            "ToZip": "",
            "NumSegments": str(segments(body).count),
            "MessageSid": sid,
            "AccountSid": account_sid,
            "From": f"+{customer.key}",
            "ApiVersion": "2010-04-01",
        }
        if shown_as(sender) == POOL:
            form["MessagingServiceSid"] = sender
        for number, (media_type, content) in enumerate(files):
            form[f"MediaContentType{number}"] = media_type
            form[f"MediaUrl{number}"] = self._file_url(sender, sid, media_type, content)
        if kind in ("text", "emoji"):
            customer.said.append(sid)
        return Said(form, sid, kind)

    def _body(self, customer: Customer, kind: str) -> str:
        match kind:
            case "text":
                return self.sentence(customer)
            case "emoji":
                return f"{self.sentence(customer)} 👍🏽"
            case "images":
                return "Which of these?"
            case _:
                return _WORDS.get(kind, "")

    def _files(self, kind: str) -> list[tuple[str, bytes]]:
        match kind:
            case "image":
                return [("image/png", self._square())]
            case "images":
                return [("image/png", self._square()), ("image/png", self._square())]
            case "video":
                return [("video/mp4", mp4_beginning())]
            case "audio":
                return [("audio/ogg", silent_voice_note(2.0))]
            case "card":
                return [("text/x-vcard", _CARD)]
            case _:
                return []

    def _square(self) -> bytes:
        return png(self.rng.randrange(256), self.rng.randrange(256), self.rng.randrange(256))
