"""Business Profiles with their reviewers, as one object to script.

Promises    Speaks and answers as the sheet's part B says: pushes of Pub/Sub that name a review and do not
            hold it, with OIDC tokens of its own keys (`GET /oauth2/v3/certs`); the reviews API; access tokens
            for a refresh token. A push is repeated until one of Pub/Sub's five codes.
Control     beside the calls that every played platform has:
            POST /__sim/keys {}                    another key signs from now on
            POST /__sim/reviews {from, review?}    nobody is told: the review is taken back, or is at Google
                                                   from now on with what stands in `review` (the sheet's
                                                   members), for those who push by themselves
            kinds of POST /__sim/messages: review (the usual), stars (without words), changed, question
"""

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Unpack

import msgspec
from msgspec import field

from adapters.simulators.google.accounts import GoogleAccount
from adapters.simulators.google.people import REVIEWED, Reviewers
from adapters.simulators.google.reviews_api import RATINGS, ReviewsApi
from adapters.simulators.google.signing import PushKeys
from adapters.simulators.google.times import EPOCH, micros, written
from adapters.simulators.ledger import Fact, Send
from adapters.simulators.playing.cast import Customer, Json, Said
from adapters.simulators.playing.control import Action, Body
from adapters.simulators.playing.platform import Making, Played
from adapters.simulators.webhooks import Event, Post, Verdict, now_ms
from engine.errors import InvalidInput, NotFound

_ACKNOWLEDGED: Final = (102, 200, 201, 202, 204)
_SUBSCRIPTION: Final = "projects/simulated/subscriptions/profile-push"


class PushSpeech:
    """Pub/Sub's: one message for each request, with a token."""

    def __init__(self, keys: PushKeys) -> None:
        self._keys = keys

    def post(self, events: Sequence[Event]) -> Post:
        (event,) = events
        return self.post_of(event.account, event.url, json.dumps(event.change).encode())

    def post_of(self, account: GoogleAccount, url: str, body: bytes) -> Post:
        token = self._keys.token(account)
        return Post(body, {"Content-Type": "application/json", "Authorization": f"Bearer {token}"})

    def company(self, event: Event) -> None:
        return None

    def verdict(self, status: int) -> Verdict:
        return "acknowledged" if status in _ACKNOWLEDGED else "again"


class _Silent(Body, kw_only=True):
    sender: str = field(name="from")
    review: Json | None = None


class ReviewsSimulator(Played[GoogleAccount, Customer]):
    """See `adapters.simulators.playing.platform`. A customer is a review: who has one changes it."""

    account_field = "resource_name"
    api: ReviewsApi

    def __init__(
        self,
        accounts: Sequence[GoogleAccount],
        **making: Unpack[Making],
    ) -> None:
        self.keys = PushKeys([one.push_private_key for one in accounts if one.push_private_key])
        super().__init__("google-business", accounts, **making)
        self._people = Reviewers(self.random("people"))
        self.reviews: dict[str, Json] = {}
        self._told: dict[str, Fact] = {}
        self._last = EPOCH
        self.api = ReviewsApi(self)

    @property
    def cast(self) -> Reviewers:
        return self._people

    def speech(self) -> PushSpeech:
        return PushSpeech(self.keys)

    def actions(self) -> Mapping[str, Action]:
        return {"keys": lambda body: {"kid": self.keys.rotate()}, "reviews": self._change_silently}

    # ── customers speak ──────────────────────────────────────────────────────────────────────────

    def send(
        self,
        customer: Customer,
        kind: str,
        text: str | None = None,
        *,
        account_id: str | None = None,
        after_seconds: float = 0.0,
    ) -> str:
        """A change that nobody has been told yet would hide the one before it, as at Google: while one is on
        its way, somebody else reviews."""
        told = self._told.get(customer.key)
        if told is not None and told.acknowledged_at is None and kind != "question":
            customer = self._people.another()
        return super().send(customer, kind, text, account_id=account_id, after_seconds=after_seconds)

    def compose(self, account: GoogleAccount, customer: Customer, kind: str, text: str | None) -> Said:
        name = f"{account.account_id}/{customer.key}"
        if kind == "question":
            question = f"{account.account_id}/questions/{self.run_id}{self.next_id()}"
            push = self._push("NEW_QUESTION", account, question_name=question)
            key = f"questions/{question.rpartition('/')[2]}"
            return Said(push, f"{key}@{push['message']['messageId']}", kind, key=key)
        if kind not in (*REVIEWED, "text"):
            raise InvalidInput(f"kind is one of {', '.join(REVIEWED)}, question")
        review = self.reviews.get(name)
        words = None if kind == "stars" else text if text is not None else self._people.sentence(customer)
        rating, now = self.rng.choice(RATINGS), self.now()
        if review is None:
            made = {
                "name": name,
                "reviewId": customer.key.rpartition("/")[2],
                "reviewer": {"displayName": customer.name},
                "starRating": rating,
                "createTime": now,
                "updateTime": now,
            }
            self.reviews[name] = made if words is None else {**made, "comment": words}
            customer.said.append(customer.key)
            return Said(self._push("NEW_REVIEW", account, review_name=name), customer.key, "review")
        review |= {"starRating": rating, "updateTime": now, "comment": words or ""}
        fact_id = f"{customer.key}@{micros(now)}"
        push = self._push("UPDATED_REVIEW", account, review_name=name)
        if "reviewReply" in review:
            return Said(push, fact_id, "changed")
        return Said(push, fact_id, "edit", customer.key)

    def tell(
        self, account: GoogleAccount, customer: Customer, said: Said, *, after_seconds: float = 0.0
    ) -> str:
        told = super().tell(account, customer, said, after_seconds=after_seconds)
        self._told[said.key or customer.key] = self.ledger.facts[-1]
        return told

    def say_more(self, account: GoogleAccount, customer: Customer, send: Send, message: Json) -> None:
        """A reviewer who was answered thinks again."""
        self.send(customer, "changed", account_id=account.account_id)

    # ── within ───────────────────────────────────────────────────────────────────────────────────

    def now(self) -> str:
        """Google's clock; no two versions have the same time."""
        self._last = max(self._last + timedelta(microseconds=1), datetime.now(UTC))
        return written(self._last)

    def _push(self, kind: str, account: GoogleAccount, **names: str) -> Json:
        data = {"notificationType": kind, "location_name": account.account_id, **names}
        push_id, at = f"{now_ms()}{self.next_id()}", self.now()
        message = {
            "attributes": {},
            "data": base64.b64encode(json.dumps(data, separators=(",", ":")).encode()).decode(),
            "messageId": push_id,
            "message_id": push_id,
            "publishTime": at,
            "publish_time": at,
        }
        return {"message": message, "subscription": _SUBSCRIPTION}

    def _change_silently(self, body: bytes) -> object:
        asked = msgspec.json.decode(body, type=_Silent)
        customer = self.cast.adopt(asked.sender)
        name = f"{self.account(asked.account_id).account_id}/{customer.key}"
        if asked.review is not None:
            now = self.now()
            usual = {
                "reviewId": customer.key.rpartition("/")[2],
                "reviewer": {"displayName": customer.name},
                "starRating": "FIVE",
                "createTime": now,
                "updateTime": now,
            }
            self.reviews[name] = {**usual, **asked.review, "name": name}
            return self.reviews[name]
        if self.reviews.pop(name, None) is None:
            raise NotFound("there is no such review")
        return {"deleted": True}
