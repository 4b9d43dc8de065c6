"""The people who write to TikTok accounts, and their words as the content of webhooks.

Promises    The same seed gives the same people saying the same things. Ids are made up and look like the
            platform's. A referral, which has no id of its own, gets the one in the ledger that a reader who
            follows the adapter's rule finds (`adapters/tiktok/receiver.py`).
"""

import base64
import hashlib
import random
from collections.abc import Callable, Mapping
from typing import Final

from adapters.simulators.media import mp4_beginning, png
from adapters.simulators.phrases import TONGUES, Tongue
from adapters.simulators.playing.cast import Cast, Customer, Json, Said
from adapters.simulators.tiktok.accounts import TikTokAccount
from engine.errors import InvalidInput

KINDS: Final = {
    "text": 72, "reply": 5, "image": 9, "video": 2, "share_post": 4, "sticker": 4, "emoji": 2, "other": 1,
    "referral": 1, "stripped": 2,
}  # fmt: skip
"""How often which kind is said, unasked. `stripped` is a text of which the webhook says nothing."""

PutFile = Callable[[str, str, bytes], str]
"""(account id, media type, content) -> media id"""


class People(Cast[Customer]):
    """All customers of the platform."""

    def __init__(self, rng: random.Random, new_mid: Callable[[], str], put_file: PutFile) -> None:
        super().__init__(rng, kinds=KINDS, key_pattern="[0-9A-Za-z+/=]{1,64}")
        self._new_mid = new_mid
        self._put_file = put_file

    def made(self, key: str, name: str, tongue: Tongue) -> Customer:
        return Customer(key, name, tongue)

    def invent(self) -> Customer:
        tongue = self.rng.choice(TONGUES)
        return self.made(base64.b64encode(self.rng.randbytes(19)).decode(), self.name(tongue), tongue)

    def draw_kind(self, customer: Customer, weights: Mapping[str, float] | None = None) -> str:
        kind = super().draw_kind(customer, weights)
        return "text" if kind == "reply" and not customer.heard else kind

    def say(
        self, account: TikTokAccount, customer: Customer, kind: str, at: int, text: str | None = None
    ) -> Said:
        """One of `KINDS`; `at` in ms. InvalidInput for another kind."""
        rng, mid = self.rng, self._new_mid()
        content = {**between(account, customer, ours=False), "timestamp": at}
        if kind == "referral":
            about = {"referral": {"ref": "spring", "source": "ADS"}}
            made = f"referral:{customer.key}:{at}"[:500]
            return Said({"event": "im_referral_msg", "content": {**content, **about}}, made, kind)
        written = kind in ("text", "reply", "stripped")
        content |= {"message_id": mid, "type": "text" if written else kind}
        content |= {"is_follower": rng.random() < 0.5, "message_tag": {"source": "APP"}}
        match kind:
            case "text" | "reply" | "stripped":
                content["text"] = {"body": text if text is not None else self.sentence(customer)}
                if kind == "reply":
                    quoted = customer.heard[-1] if customer.heard else self._new_mid()
                    content["referenced_message_info"] = {"referenced_message_id": quoted}
                customer.said.append(mid)
            case "image":
                square = png(rng.randrange(256), rng.randrange(256), rng.randrange(256))
                media_id = self._put_file(account.account_id, "image/png", square)
                content["image"] = {"media_id": media_id}
            case "video":
                media_id = self._put_file(account.account_id, "video/mp4", mp4_beginning())
                content["video"] = {"media_id": media_id}
            case "share_post":
                number = rng.randrange(7 * 10**18, 75 * 10**17)
                content["share_post"] = {"embed_url": f"https://www.tiktok.com/embed/{number}"}
            case "sticker" | "emoji" | "other":
                pass
            case _:
                raise InvalidInput(f"kind is one of {', '.join(KINDS)}")
        if kind == "stripped":
            told = {name: content[name] for name in ("to", "to_user", "timestamp")}
            return Said({"event": "im_receive_msg_eu", "content": told, "whole": content}, mid, kind)
        return Said({"event": "im_receive_msg", "content": content}, mid, kind)


def between(account: TikTokAccount, customer: Customer, *, ours: bool) -> Json:
    """The members that say who wrote to whom."""
    person = {"id": person_id(customer.key), "role": "personal_account"}
    business = {"id": account.account_id, "role": "business_account"}
    names = [customer.name, "simulated_shop"]
    parties = [person, business]
    if ours:
        names.reverse()
        parties.reverse()
    return {
        "from": names[0],
        "to": names[1],
        "from_user": parties[0],
        "to_user": parties[1],
        "unique_identifier": person_id(customer.key)[:8],
        "conversation_id": customer.key,
    }


def person_id(conversation_id: str) -> str:
    """The person's own id, by which the business cannot answer."""
    digest = hashlib.sha256(conversation_id.encode()).hexdigest()
    return "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32]))
