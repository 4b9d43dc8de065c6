"""What the channel actor needs from a platform's adapter to send: one small Protocol and its outcomes.

Why         The channel actor keeps order, pace and promises for every platform; an adapter knows how one
            platform is spoken to. The seam is a single call with three possible ends, so that the actor can
            be run against a model platform under a virtual clock.
Promises    An adapter's `send` ends in exactly one of `Accepted`, `Declined`, `Unanswered`; it raises nothing
            but `Cancelled`. `Declined` means that the platform surely did not take the message, `Unanswered`
            that nobody can know.
Leaves      Retries, order and pace to adapters/channel.py; secrets to the root, which opens them.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from msgspec import Struct

from engine.domain.outbound import OutboxItem, Send


class ErrorClass(Enum):
    """Why a platform declined, by what has to happen next (WhatsApp sheet, 6.3, in platform-neutral
    words)."""

    AUTH = "auth"
    """The credentials do not hold: the account stops until they are changed; nothing is lost."""
    RATE_ACCOUNT = "rate_account"
    """The account sends too fast: slow down, try again."""
    RATE_PAIR = "rate_pair"
    """Too much for one recipient: this conversation waits, the others go on."""
    SPAM_PAUSE = "spam_pause"
    """The platform restricts the account for its quality: a long pause, then try again."""
    TRANSIENT = "transient"
    """The platform's trouble: try again."""
    UNREACHABLE = "unreachable"
    """No connection, so nothing was sent: try again."""
    RECIPIENT = "recipient"
    """This recipient cannot be reached, ever or as things are: final."""
    WAIT_LONG = "wait_long"
    """The platform wants no such message to this recipient for a day or more; not ours to loop on: final."""
    BAD_REQUEST = "bad_request"
    """The message itself is not acceptable: final."""
    ACCOUNT = "account"
    """Something about the account (payment, policy, registration): final, a person has to act."""


RETRYABLE = frozenset(ErrorClass) - {ErrorClass.RECIPIENT, ErrorClass.BAD_REQUEST}
"""Classes of a failure that a person's later `retry` of the same message may turn into success."""


class Account(Struct, frozen=True, kw_only=True):
    """A connected account with its credentials opened. Its representation leaves the credentials out.

    `active` is False for a channel that its owner has disabled: nothing is sent, nothing is lost.
    """

    tenant_id: int
    channel_id: int
    platform: str
    external_id: str
    credentials: dict[str, str]
    settings: dict[str, Any]
    active: bool = True

    def __repr__(self) -> str:
        return f"<Account {self.platform} tenant={self.tenant_id} channel={self.channel_id}>"


class Accepted(Struct, frozen=True, kw_only=True):
    """The platform took it. `platform_id` is empty for signals, which get none."""

    platform_id: str
    standing: str | None = None  # the platform's remark, e.g. held_for_quality_assessment


class Declined(Struct, frozen=True, kw_only=True):
    """The platform did not take it, or it never left."""

    error_class: ErrorClass
    platform_code: str
    message: str
    retry_after_seconds: float | None = None


class Unanswered(Struct, frozen=True, kw_only=True):
    """The request may have been taken; no answer, or none that can be understood, came back."""

    reason: str


SendResult = Accepted | Declined | Unanswered


class Limits(Struct, frozen=True, kw_only=True):
    """A platform's sending limits for one account (its sheet's numbers, or the account's settings)."""

    messages_per_second: int
    pair_seconds: float
    pair_burst: int
    concurrency: int


class Turn(Protocol):
    """One call's place in the account's limits. The less lies between `come`, the writing and `written`, the
    more exact is the pace."""

    async def come(self) -> None:
        """Returns when the call may be made now."""
        ...

    def written(self) -> None:
        """The platform has the request from now on, as far as we can know."""
        ...


class Sender(Protocol):
    """The outbound half of an adapter. One instance per platform serves all accounts."""

    platform: str

    def check(self, send: Send) -> None:
        """Raises InvalidInput with `fields` for what the platform would refuse. Pure."""
        ...

    def limits(self, account: Account) -> Limits:
        """The pace of this account. Pure."""
        ...

    async def send(self, item: OutboxItem, account: Account, turn: Turn) -> SendResult:
        """One attempt. Once everything is ready for it (uploads, a connection), its `turn` has to come, and
        the message's request is written at once. When cancelled, the platform may or may not have taken the
        message."""
        ...


class FoundMedia(Struct, frozen=True, kw_only=True):
    """Where a platform's file can be downloaded now. `headers` carry the authorization and are never
    logged."""

    url: str
    headers: dict[str, str]
    media_type: str | None = None
    sha256: str | None = None
    size: int | None = None


class MediaSource(Protocol):
    """The media half of an adapter."""

    platform: str

    async def look_up(
        self, source_id: str | None, source_url: str | None, account: Account
    ) -> FoundMedia | Declined:
        """A fresh address for a file. `Declined` by class: RECIPIENT and BAD_REQUEST mean that it is gone."""
        ...


AccountOf = Callable[[int, int], Account | None]
"""(tenant id, channel id) -> the account of this moment, credentials opened; None when there is none."""
