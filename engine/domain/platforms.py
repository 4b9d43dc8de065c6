"""Platforms as the rest of the system knows them: what each can carry, and what connecting an account takes.

Why         Neither the engine nor the gateway may know a platform by name. What they must know of one (is
            there a reply window? are contacts telephone numbers? which credentials does an account have?) is
            data, and each adapter describes itself in it.
Promises    `rules_of` answers for every name; one that nobody has described has no window and no templates.
Owns        the table of described platforms. The root fills it once, before the engine runs; nothing changes
            it afterwards, so handlers that read it stay pure.
Leaves      speaking to the platform to its adapter (adapters/README.md).
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct


class Capabilities(Struct, frozen=True, kw_only=True):
    """What an adapter can do: the README's channel table and the contract suite are made from it.

    `receives` and `sends` are message types of `engine/domain/content.py`; what is in neither `sends` nor
    `degrades` is refused. `degrades` says in a sentence for the agent how a type is sent otherwise.
    `interactive` are the kinds of interactive messages that go out as such; the others are degraded or
    refused. `statuses` are those that the platform tells of our messages. `media_bytes_max` is by kind of
    media. `window_seconds` is how long after the customer's message a free-form answer may go out (None:
    always), `human_window_seconds` how long a person's may where the account has the permission for it,
    `window_messages_max` how many messages may go out in one window (None: any number).
    `profiles`: webhooks bring no names, which are looked up. `takes_our_id`: our message's id travels with
    it, and what is told of it later brings it back. `starts`: the business may write first. `threads`: an
    answer continues the customer's newest message, which sends are given (`OutboxItem.thread`).
    `automatic_max` automatic answers go to one contact within `automatic_seconds`; None: as many as the
    rules give. `writes_opt_in`: who opted out and writes again wants answers again, where there are no words
    for it. `limits` is the sending limit in words.
    """

    receives: tuple[str, ...]
    sends: tuple[str, ...]
    statuses: tuple[str, ...] = ("sent",)
    degrades: Mapping[str, str] = {}
    media_bytes_max: Mapping[str, int] = {}
    interactive: tuple[str, ...] = ()
    buttons: str | None = None
    templates: str | None = None
    edits: bool = False
    deletions: bool = False
    echoes: bool = False
    typing: bool = False
    read_marks: bool = False
    window_seconds: int | None = None
    human_window_seconds: int | None = None
    window_messages_max: int | None = None
    starts: bool = False
    takes_our_id: bool = True
    profiles: bool = False
    threads: bool = False
    automatic_max: int | None = None
    automatic_seconds: int = 0
    writes_opt_in: bool = False
    limits: str = ""

    @property
    def reactions(self) -> tuple[bool, bool]:
        """Whether reactions come in, and whether they can be sent."""
        return "reaction" in self.receives, "reaction" in self.sends


class Field(Struct, frozen=True, kw_only=True):
    """One value that connecting an account takes. `label` is a sentence for people. `generated`: one is made
    where none is given. `kind`: text, or number between `least` and `most`, or flag. `signs`: what platforms
    sign deliveries with; accounts with the same signing secrets are one app's."""

    name: str
    label: str
    required: bool = False
    generated: bool = False
    kind: str = "text"
    pattern: str | None = None
    length_max: int = 4096
    least: int = 0
    most: int = 2**31
    signs: bool = False

    def problem(self, value: object) -> str | None:
        """What is wrong with a value, in a sentence; None when nothing is."""
        match self.kind:
            case "number":
                if not isinstance(value, int) or isinstance(value, bool):
                    return "Expected a whole number."
                return None if self.least <= value <= self.most else f"Between {self.least} and {self.most}."
            case "flag":
                return None if isinstance(value, bool) else "Expected true or false."
            case _:
                if not isinstance(value, str):
                    return "Expected text."
                if not 1 <= len(value) <= self.length_max:
                    return f"Between 1 and {self.length_max} characters."
                # `$` lets a line feed through at the end.
                if self.pattern is not None and (not re.search(self.pattern, value) or value.endswith("\n")):
                    return f"Must match {self.pattern}."
                return None


class Renewal(Struct, frozen=True, kw_only=True):
    """Credentials that expire and can be renewed before they do.

    `names`: the credentials that expire, or that the new ones are had with. `lifetime_seconds`: how long new
    ones hold, by what the platform says; they are renewed when half to two thirds of it are over.
    `age_seconds_min`: the platform renews none that are younger. `single_use`: a renewal may use up what it
    is made with, so an answer that gets lost may lock the account out.
    """

    names: tuple[str, ...]
    lifetime_seconds: int
    age_seconds_min: int = 0
    single_use: bool = False


class Connection(Struct, frozen=True, kw_only=True):
    """What an account consists of: `mijra channel connect` and `POST channels` ask for it and check it.

    `account` is the id that deliveries name (`external_id` in the API), `parent` a higher account's
    (`business_account_id`). `settings` may be changed later and are not secret. `guide` says what is left to
    do at the platform, in a sentence. `renewal`: how credentials are kept from expiring; None where they do
    not expire, or only a person can replace them. Accounts whose id matches `one_way` send only: nobody can
    answer them."""

    account: Field
    one_way: str | None = None
    parent: Field | None = None
    credentials: tuple[Field, ...] = ()
    settings: tuple[Field, ...] = ()
    guide: str = ""
    renewal: Renewal | None = None

    def is_one_way(self, external_id: str) -> bool:
        """Whether this account can be written to by nobody."""
        return self.one_way is not None and re.search(self.one_way, external_id) is not None

    def problems(
        self, credentials: Mapping[str, Any], settings: Mapping[str, Any], *, whole: bool
    ) -> dict[str, list[str]]:
        """By field. `whole`: required credentials must be there, as when connecting."""
        found: dict[str, list[str]] = {}
        for part, fields, values in (
            ("credentials", self.credentials, credentials),
            ("settings", self.settings, settings),
        ):
            known = {field.name: field for field in fields}
            for name, value in values.items():
                field = known.get(name)
                sentence = "Is not known here." if field is None else field.problem(value)
                if sentence is not None:
                    found[f"{part}.{name[:100]}"] = [sentence]
            for field in fields:
                if whole and field.required and field.name not in values:
                    found[f"{part}.{field.name}"] = ["Is required."]
        return found

    @property
    def secret_names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.credentials)

    @property
    def signing_names(self) -> frozenset[str]:
        return frozenset(field.name for field in self.credentials if field.signs)

    @property
    def setting_names(self) -> frozenset[str]:
        return frozenset(field.name for field in self.settings)


_KEPT_HEADERS: Final = frozenset({"content-type", "user-agent", "x-forwarded-for", "x-request-id"})
"""Of every delivery: how its body is read, and what tells people whence it came."""

_NEVER_KEPT: Final = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
"""Whoever has one of these is let in with it, whatever he sends: while it is good it is a secret."""


class Platform(Struct, frozen=True, kw_only=True):
    """A described platform. `name` is in webhook addresses, rows and the API; `aliases` are other spellings
    of it that the API, the command line and webhook addresses take. `by_phone`: contacts are known by
    telephone numbers without '+', so that a conversation can be started with one. `delivery_bytes_max`: what
    one webhook may have where that is more than the installation takes of others. `proof_headers`
    (lower-case): those that prove this one delivery and no other, a signature and what it covers beside the
    body; they are kept with it, so that it can be verified again."""

    name: str
    label: str
    capabilities: Capabilities
    connection: Connection
    aliases: tuple[str, ...] = ()
    by_phone: bool = False
    delivery_bytes_max: int = 0
    proof_headers: tuple[str, ...] = ()

    def kept_of(self, headers: Mapping[str, str]) -> dict[str, str]:
        """What of a delivery's headers is stored with it: the proof, never what lets somebody in."""
        kept = _KEPT_HEADERS.union(self.proof_headers) - _NEVER_KEPT
        return {name: value for name, value in headers.items() if name in kept}

    @property
    def reply_window_ms(self) -> int | None:
        seconds = self.capabilities.window_seconds
        return None if seconds is None else seconds * 1_000

    @property
    def human_window_ms(self) -> int | None:
        seconds = self.capabilities.human_window_seconds
        return None if seconds is None else seconds * 1_000


BASE_URL: Final = Field(
    name="base_url",
    label="Where a stand-in plays the platform, such as a simulator.",
    pattern="^https?://[^\\s?#]+$",
    length_max=500,
)
"""A setting that every platform called over HTTP has."""

_UNKNOWN: Final = Platform(
    name="unknown",
    label="Unknown",
    capabilities=Capabilities(receives=(), sends=()),
    connection=Connection(account=Field(name="external_id", label="The account's id.")),
)

_described: dict[str, Platform] = {}


def describe(platform: Platform) -> None:
    """Adds a platform to the table; for the root, before the engine runs. A later one of the same name
    replaces the earlier."""
    _described[platform.name] = platform


def rules_of(name: str) -> Platform:
    """The platform of this name, or one without rules."""
    return _described.get(name, _UNKNOWN)
