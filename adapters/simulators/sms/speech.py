"""Forms as Twilio posts them: one for each happening, signed with the address (sheet, sections 2 and 3)."""

import secrets
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qs, parse_qsl, urldefrag, urlencode

from msgspec import Struct

from adapters.simulators.webhooks import Event, Post, Verdict
from adapters.sms.signing import signature

_KINDS: Final = ("4xx", "5xx")


class Overrides(Struct, frozen=True, kw_only=True):
    """What the fragment of a callback's address asks for: how often a post is tried again, and after which
    answers. Without one, once, and only where no connection was made."""

    retries: int = 1
    policy: frozenset[str] = frozenset({"ct"})

    @classmethod
    def of(cls, url: str) -> "Overrides":
        given = parse_qs(urldefrag(url).fragment)
        count = given.get("rc", ["1"])[-1]
        policy = frozenset(given.get("rp", ["ct"])[-1].split(","))
        return cls(retries=min(int(count), 5) if count.isdecimal() else 1, policy=policy)


class TwilioSpeech:
    """Implements `adapters.simulators.webhooks.Speech`. `overrides` are those in force."""

    def __init__(self, overrides: Callable[[], Overrides]) -> None:
        self._overrides = overrides

    def post(self, events: Sequence[Event]) -> Post:
        (event,) = events
        return self.post_of(event.account, event.url, urlencode(event.change).encode("ascii"))

    def post_of(self, account: Any, url: str, body: bytes) -> Post:
        form = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
        headers: Mapping[str, str] = {
            "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
            "User-Agent": "TwilioProxy/1.1",
            "I-Twilio-Idempotency-Token": secrets.token_hex(16),
            "X-Twilio-Signature": signature(account.auth_token, urldefrag(url).url, form),
        }
        return Post(body, headers)

    def company(self, event: Event) -> Hashable | None:
        return None

    def verdict(self, status: int) -> Verdict:
        if 200 <= status < 300:
            return "acknowledged"
        policy = self._overrides().policy
        return "again" if f"{status // 100}xx" in policy or "all" in policy else "refused"
