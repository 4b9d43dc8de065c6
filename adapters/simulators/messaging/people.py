"""The people who write to Pages and Instagram accounts, and their words as messaging items.

Promises    The same seed gives the same people saying the same things. Ids are made up and look like the
            platform's. An item that has no id of its own gets the one in the ledger that a reader who follows
            the adapter's rule finds (`adapters/meta/messaging.py`).
"""

import random
from collections.abc import Callable, Mapping
from typing import Any, Final

from adapters.simulators.media import mp4_beginning, png, silent_voice_note
from adapters.simulators.phrases import TONGUES, Tongue
from adapters.simulators.playing.cast import Cast, Customer, Json, Said
from engine.errors import InvalidInput

KINDS: Final = {
    "text": 66, "reply": 5, "quick_reply": 3, "image": 8, "images": 2, "video": 2, "audio": 4,
    "sticker": 2, "postback": 2, "referral": 1, "reaction": 3, "unreact": 1, "edit": 1, "story_reply": 2,
    "story_mention": 1, "deleted": 1, "link": 1, "unknown": 0.5,
}  # fmt: skip
"""How often which kind is said, unasked; what a platform does not have is said as a text."""

ONLY_ON: Final = {
    "story_reply": "instagram", "story_mention": "instagram", "deleted": "instagram", "link": "facebook",
}  # fmt: skip


class People(Cast[Customer]):
    """All customers of one platform. `file_url(account, media type, bytes)` gives a file's address."""

    def __init__(
        self,
        platform: str,
        rng: random.Random,
        new_mid: Callable[[], str],
        file_url: Callable[[str, str, bytes], str],
    ) -> None:
        super().__init__(rng, kinds=KINDS, key_pattern="[0-9A-Za-z]{1,40}")
        self._platform = platform
        self._new_mid = new_mid
        self._file_url = file_url

    def made(self, key: str, name: str, tongue: Tongue) -> Customer:
        return Customer(key, name, tongue)

    def invent(self) -> Customer:
        tongue = self.rng.choice(TONGUES)
        return self.made(str(self.rng.randrange(10**15, 10**16)), self.name(tongue), tongue)

    def draw_kind(self, customer: Customer, weights: Mapping[str, float] | None = None) -> str:
        kind = super().draw_kind(customer, weights)
        needs_past = kind in ("edit", "deleted") and not customer.said
        needs_answer = kind in ("reply", "reaction", "unreact", "quick_reply") and not customer.heard
        foreign = ONLY_ON.get(kind, self._platform) != self._platform
        return "text" if needs_past or needs_answer or foreign else kind

    def say(self, account_id: str, customer: Customer, kind: str, at: int, text: str | None = None) -> Said:
        """An item of one of `KINDS`; `at` in ms. InvalidInput for another kind."""
        rng, mid = self.rng, self._new_mid()
        said = text if text is not None else self.sentence(customer)
        heard = customer.heard[-1] if customer.heard else self._new_mid()
        message: Json = {"mid": mid}
        match kind:
            case "text":
                message["text"] = said
            case "reply":
                message |= {"text": said, "reply_to": {"mid": heard}}
            case "quick_reply":
                message |= {"text": "Yes", "quick_reply": {"payload": "yes"}}
            case "image" | "images":
                count = 2 if kind == "images" else 1
                message["attachments"] = [self._picture(account_id) for _ in range(count)]
                if text is not None:
                    message["text"] = text
            case "video":
                message["attachments"] = [self._file(account_id, "video", "video/mp4", mp4_beginning())]
            case "audio":
                sound = silent_voice_note(rng.uniform(1, 4))
                message["attachments"] = [self._file(account_id, "audio", "audio/ogg", sound)]
            case "sticker":
                if self._platform == "instagram":
                    message["attachments"] = [{"type": "like_heart"}]
                else:
                    picture = self._file(account_id, "image", "image/png", self._square())
                    picture["payload"]["sticker_id"] = 369239263222822
                    message |= {"sticker_id": 369239263222822, "attachments": [picture]}
            case "story_reply":
                url = self._file(account_id, "image", "image/png", self._square())["payload"]["url"]
                message |= {"text": said, "reply_to": {"story": {"url": url, "id": "17900000000000001"}}}
            case "story_mention":
                message["attachments"] = [self._picture(account_id, "story_mention")]
            case "link":
                link = {"type": "fallback", "title": "A page", "url": "https://www.example.com/"}
                message |= {"text": "https://www.example.com/", "attachments": [link]}
            case "unknown":
                if self._platform == "instagram":
                    message["is_unsupported"] = True
                else:
                    message["attachments"] = [{"type": "hologram", "payload": {}}]
            case "postback":
                postback = {"mid": mid, "title": "Opening hours", "payload": "HOURS"}
                return Said(self._item(account_id, customer, at, postback=postback), mid, "postback")
            case "referral":
                referral = {"ref": "campaign", "source": "SHORTLINK", "type": "OPEN_THREAD"}
                item = self._item(account_id, customer, at, referral=referral)
                return Said(item, f"referral:{customer.key}:{at}", "referral")
            case "reaction" | "unreact":
                return self._reaction(account_id, customer, kind, heard, at, text)
            case "edit":
                original = customer.said[-1] if customer.said else mid
                number = rng.randrange(1, 10**6)
                edit = {"mid": original, "text": said, "num_edit": number}
                item = self._item(account_id, customer, at, message_edit=edit)
                return Said(item, f"edit:{original}:{number}", "edit", original)
            case "deleted":
                original = customer.said.pop() if customer.said else mid
                item = self._item(account_id, customer, at, message={"mid": original, "is_deleted": True})
                return Said(item, f"deleted:{original}", "revoke", original)
            case _:
                raise InvalidInput(f"kind is one of {', '.join(KINDS)}")
        if kind in ("text", "reply"):
            customer.said.append(mid)
        return Said(self._item(account_id, customer, at, message=message), mid, kind)

    def _reaction(
        self, account_id: str, customer: Customer, kind: str, heard: str, at: int, emoji: str | None
    ) -> Said:
        action = "react" if kind == "reaction" else "unreact"
        reaction: Json = {"mid": heard, "action": action}
        if action == "react":
            reaction |= {"reaction": "love", "emoji": emoji or "❤️"}
        item = self._item(account_id, customer, at, reaction=reaction)
        return Said(item, f"reaction:{customer.key}:{at}:{action}:{heard}"[:500], kind)

    def _square(self) -> bytes:
        rng = self.rng
        return png(rng.randrange(256), rng.randrange(256), rng.randrange(256))

    def _picture(self, account_id: str, kind: str = "image") -> Json:
        return self._file(account_id, kind, "image/png", self._square())

    def _file(self, account_id: str, kind: str, media_type: str, content: bytes) -> Json:
        return {"type": kind, "payload": {"url": self._file_url(account_id, media_type, content)}}

    def _item(self, account_id: str, customer: Customer, at: int, **member: Any) -> Json:
        return {
            "sender": {"id": customer.key},
            "recipient": {"id": account_id},
            "timestamp": at,
            **member,
        }
