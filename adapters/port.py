"""The port: what every platform's adapter gives, and what it gets. How to write one: adapters/README.md.

Why         The channel actor keeps order, pace and promises for every platform; an adapter knows how one
            platform is spoken to. The seam to send is a single call with three possible ends, so that the
            actor can be run against a model platform under a virtual clock.
Promises    An adapter's `send` ends in exactly one of `Accepted`, `Declined`, `Unanswered`; it raises nothing
            but `Cancelled`. `Declined` means that the platform surely did not take the message, `Unanswered`
            that nobody can know.
Leaves      Retries, order and pace to adapters/channel.py; secrets to the root, which opens them; finding
            the adapters to adapters/registry.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from msgspec import Struct

from adapters.guard import Guard
from engine.domain.inbound import Announced, InboundEvent
from engine.domain.outbound import OutboxItem, Send
from engine.domain.platforms import Platform
from engine.ports import MediaStore, Receiver

if TYPE_CHECKING:
    from adapters.service import AccountService, Service, ServiceTools


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
    OPTED_OUT = "opted_out"
    """The recipient wants no messages from this account: final, and the conversation is told."""
    UNDELIVERABLE = "undeliverable"
    """Nothing that is sent to this recipient's address will arrive: final, and the conversation is told."""
    ACCOUNT = "account"
    """Something about the account (payment, policy, registration): final, a person has to act."""


RETRYABLE = frozenset(ErrorClass) - {
    ErrorClass.RECIPIENT,
    ErrorClass.OPTED_OUT,
    ErrorClass.UNDELIVERABLE,
    ErrorClass.BAD_REQUEST,
}
"""Classes of a failure that a person's later `retry` of the same message may turn into success."""


class Account(Struct, frozen=True, kw_only=True):
    """A connected account with its credentials opened. Its representation leaves the credentials out.

    `active` is False for a channel that its owner has disabled: nothing is sent, nothing is lost.
    `credentials_at` (ms) is when the credentials were given or renewed, and names them;
    `credentials_expire_at` (ms) is None where they do not expire, or nobody has said when.
    """

    tenant_id: int
    channel_id: int
    platform: str
    external_id: str
    credentials: dict[str, str]
    settings: dict[str, Any]
    active: bool = True
    credentials_at: int = 0
    credentials_expire_at: int | None = None

    def base_url(self, usual: str) -> str:
        """The platform's address, without a slash at its end: the setting `base_url`, else `usual`."""
        return str(self.settings.get("base_url") or usual).rstrip("/")

    def number(self, name: str, usual: int, most: int) -> int:
        """A setting that is a whole number of 1 to `most`; `usual` where it is none."""
        given = self.settings.get(name)
        if isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= most:
            return given
        return usual

    def __repr__(self) -> str:
        return f"<Account {self.platform} tenant={self.tenant_id} channel={self.channel_id}>"


class Accepted(Struct, frozen=True, kw_only=True):
    """The platform took it. `platform_id` is empty for signals, which get none. `slow_down`: it says that the
    account's calls are nearly used up."""

    platform_id: str
    slow_down: bool = False
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


Failure = Declined | Unanswered
SendResult = Accepted | Failure


class Limits(Struct, frozen=True, kw_only=True):
    """A platform's sending limits for one account (its sheet's numbers, or the account's settings).
    `weight`: for how many messages a send counts in the account's pace (a long SMS is several); None: for
    one."""

    messages_per_second: int
    pair_seconds: float
    pair_burst: int
    concurrency: int
    weight: Callable[[Send], int] | None = None


class Turn(Protocol):
    """One call's place in the account's limits. The less lies between `come`, the writing and `written`, the
    more exact is the pace."""

    async def come(self) -> None:
        """Returns when the call may be made now."""
        ...

    def written(self) -> None:
        """The platform has the request from now on, as far as we can know."""
        ...


class Fitted(Struct, frozen=True, kw_only=True):
    """A send as the platform can carry it. `note` tells the agent what is different from what was asked; it
    is stored with the message. None: nothing. `facts` are members for the message's content that the agent
    should see (how many parts a text is sent in)."""

    send: Send
    note: str | None = None
    facts: Mapping[str, Any] = {}


class Sender(Protocol):
    """The outbound half of an adapter. One instance per platform serves all accounts."""

    platform: str

    def fit(self, send: Send) -> Fitted:
        """Raises InvalidInput with a sentence for each of its `fields` for what the platform would refuse.
        Pure. `send` fits what it is given too: an automated reply comes as its rule has it. A reaction's
        message may be unnamed yet (an empty id): the conversation puts it in."""
        ...

    def limits(self, account: Account) -> Limits:
        """The pace of this account. Pure."""
        ...

    async def send(self, item: OutboxItem, account: Account, turn: Turn) -> SendResult:
        """One attempt. Once everything is ready for it (uploads, a connection), its `turn` has to come, and
        the message's request is written at once. When cancelled, the platform may or may not have taken the
        message."""
        ...


class Outlet(Struct, frozen=True, kw_only=True):
    """Where a send is to go, as far as it decides what can be carried. `answered`: the conversation has an
    answer of a person's already."""

    external_id: str
    settings: Mapping[str, Any]
    answered: bool = False


class FoundMedia(Struct, frozen=True, kw_only=True):
    """Where a platform's file can be downloaded now. `headers` carry the authorization and are never
    logged. `content`: the file itself, where it came in a delivery that we keep; then there is no address."""

    url: str = ""
    headers: dict[str, str] = {}
    content: bytes | None = None
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


class Reader(Protocol):
    """The half of an adapter that reads what webhooks only name."""

    platform: str

    async def read(self, announced: Announced, account: Account) -> "Sequence[InboundEvent] | Declined":
        """What was announced, as events; the same each time, ids included, while it does not change. Within
        ten seconds, since a delivery waits for it. What can never be read is an event that says so.
        `Declined`: not now; the platform is told to repeat its delivery, and an AUTH marks the channel."""
        ...


class Checked(Struct, frozen=True, kw_only=True):
    """Does an account work? `detail` is a sentence without secrets, `facts` what the platform says of it."""

    ok: bool
    detail: str
    facts: dict[str, Any] = {}


class Renewed(Struct, frozen=True, kw_only=True):
    """An account's new credentials by their names; what is not named stays. `expires_at` (ms): when they
    expire; None when the platform does not say. Its representation leaves the credentials out."""

    credentials: dict[str, str]
    expires_at: int | None

    def __repr__(self) -> str:
        return f"<Renewed {sorted(self.credentials)} until {self.expires_at}>"


class Profile(Struct, frozen=True, kw_only=True):
    """Who a customer is, as the platform shows them."""

    name: str
    avatar_url: str | None = None


class OpenSender(Sender, AbstractAsyncContextManager[Sender], Protocol):
    """A Sender with its connections; the root enters it at the start and leaves it at the end."""


class OpenReader(Reader, AbstractAsyncContextManager[Reader], Protocol):
    """A Reader with its connections, likewise."""


class OpenMediaSource(MediaSource, AbstractAsyncContextManager[MediaSource], Protocol):
    """A MediaSource with its connections, likewise."""


class Tools(Struct, frozen=True, kw_only=True):
    """What the root lends to adapters. `link(tenant_id, storage_key)` is a public address of a stored file
        that works for an hour at least, for platforms that fetch what they are to send. `webhook(account)` is
        where the account's platform reaches us, for those that want to be told with each message; None: not
    known."""

    media: MediaStore
    guard: Guard
    link: Callable[[int, str], str]
    webhook: Callable[[Account], str | None] = lambda account: None


class Simulator(Protocol):
    """A platform that is played: what the commands need of it. See adapters/simulators."""

    @property
    def base_url(self) -> str: ...

    @property
    def webhooks(self) -> Any:
        """`statistics()` says what waits to be told; `adapters.simulators.webhooks.WebhookSender`."""
        ...

    def running(self, host: str = "127.0.0.1", port: int = 0) -> AbstractAsyncContextManager["Simulator"]: ...

    async def connect(
        self, callback_url: str, account_id: str | None = None, /, *, check: bool = True
    ) -> None:
        """Webhooks go there from now on, after a handshake when `check`."""
        ...

    def start_talking(self, talk: Any) -> None: ...

    def stop_talking(self) -> None: ...


class Play(Struct, frozen=True, kw_only=True):
    """What a simulator is made with. `accounts` are keys as `StandIn.new_keys` makes them. `habits`: calm,
    open (the same, and sends to people whose messages somebody else posts are taken too), demo (the bad
    habits of every day, but each send arrives) or rough (a bad day). Simulators with one
    `ledger` (`adapters.simulators.ledger.Ledger`) are witnesses as one; None: each keeps its own."""

    accounts: Sequence[Mapping[str, str]]
    seed: int = 1
    habits: str = "calm"
    ledger: Any = None


class StandIn(Protocol):
    """How a platform is played."""

    def new_keys(self) -> dict[str, str]:
        """A new account, by the names of the connection's fields (the account's, the parent's, the
        credentials')."""
        ...

    def demo_keys(self) -> dict[str, str]:
        """The same, with keys that are plainly no secrets and never change."""
        ...

    def simulator(self, play: Play) -> Simulator: ...

    def example(self) -> Mapping[str, Any]:
        """The body for `POST /__sim/messages` with which a customer writes; for people."""
        ...


class Adapter(ABC):
    """A platform. One instance per process; parts are made when they are needed."""

    platform: ClassVar[Platform]
    listeners: ClassVar[tuple[str, ...]] = ()
    """What `services` listen on where the operator wants it, by the names of `ServiceTools.listen`."""

    @abstractmethod
    def receiver(self) -> Receiver:
        """Signature and payloads (engine/ports.py)."""

    @abstractmethod
    def sender(self, tools: Tools) -> OpenSender: ...

    @abstractmethod
    def media_source(self, tools: Tools) -> OpenMediaSource | None:
        """None where webhooks bring no files."""

    def reader(self, tools: Tools) -> OpenReader | None:
        """None where webhooks hold what they tell of."""
        return None

    def fit(self, sender: Sender, send: Send, outlet: Outlet) -> Fitted:
        """`sender.fit`, for a platform on which the account decides what can be carried: raises as it does.
        Pure."""
        return sender.fit(send)

    @abstractmethod
    async def check(self, account: Account, tools: Tools) -> Checked:
        """One harmless read with the account's credentials. Raises Unavailable when the platform cannot be
        reached or has trouble of its own."""

    @abstractmethod
    def classify(self, code: str) -> ErrorClass:
        """The class of a platform's error code, written as `Declined.platform_code` writes it; a code that
        nobody knows has one too."""

    async def profile(self, key: str, account: Account, tools: Tools) -> Profile | None:
        """Who the contact of this key is, asked once for each where the capability `profiles` says that
        webhooks do not tell; None when the platform does not say either. Raises Unavailable."""
        return None

    async def renew(self, account: Account, tools: Tools) -> Renewed | Declined | None:
        """New credentials in place of the account's, which still hold or whose successors can be had with
        them. Called where `platform.connection.renewal` says that they expire, by adapters/renewing.py, which
        stores the answer. None: this account's do not expire, or it lacks what they are renewed with.

        `Declined` of class AUTH or ACCOUNT: a person has to connect the account again, and `message` tells
        them so; other classes are tried again. Raises Unavailable when the platform cannot be reached or has
        trouble of its own; nothing else. One call at a time for each account."""
        return None

    def services(self, tools: "ServiceTools") -> "Sequence[Service | AccountService]":
        """What runs as long as the process does: listeners, pollers (adapters/service.py)."""
        return ()

    def takes_our_id(self, external_id: str) -> bool:
        """Whether our message's id travels with what this account sends."""
        return self.platform.capabilities.takes_our_id

    def stand_in(self) -> StandIn | None:
        """How the platform is played; None where nobody plays it."""
        return None

    def stand_ins(self) -> Mapping[str, StandIn]:
        """The same by name, for a platform with several kinds of accounts: the first, by the platform's name,
        and others by names that are nobody else's."""
        first = self.stand_in()
        return {} if first is None else {self.platform.name: first}


AccountOf = Callable[[int, int], Account | None]
"""(tenant id, channel id) -> the account of this moment, credentials opened; None when there is none."""
