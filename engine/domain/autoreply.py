"""Automated replies: which rule, if any, answers a message. Pure.

One rule at most answers a message: keyword before greeting before away, within a kind the smallest
`priority`, then the oldest. Loops are impossible by construction: only messages of customers are ever
looked at (`MessageReceived`, never an echo or our own), and a rule answers in one conversation at most
once per its `cooldown_seconds`.

Regular expressions are RE2 (google-re2), which matches in time linear in the text, so that no pattern
of a tenant can hold up the engine: that bound, with the limits on text and program size below, is the
time limit, and unlike a clock it gives the same answer on every run.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import re2

from engine.domain.config import ReplyRule, TenantConfig
from engine.domain.workhours import is_open
from engine.errors import InvalidInput

TEXT_CHARACTERS_MAX = 4096
"""WhatsApp's own limit for a text body; what is longer is matched on its beginning."""

PATTERN_CHARACTERS_MAX = 512
PATTERNS_MAX = 50

REGEX_MEMORY_BYTES_MAX = 1 << 20
"""RE2 refuses patterns that compile to more; 1 MiB leaves room for any sensible keyword list."""

COMPILED_MAX = 4096
"""Compiled patterns kept, over all tenants; least recently used ones are compiled again."""

_ORDER = {"keyword": 0, "greeting": 1, "away": 2}


def check_pattern(pattern: str) -> None:
    """Raises InvalidInput with a sentence when `pattern` is not an RE2 expression within the limits."""
    if len(pattern) > PATTERN_CHARACTERS_MAX:
        raise InvalidInput(
            "The pattern is too long.",
            fields={"patterns": [f"At most {PATTERN_CHARACTERS_MAX} characters per pattern."]},
        )
    try:
        _compile(pattern)
    except re2.error as error:
        reason = error.args[0] if error.args else "not valid"
        if isinstance(reason, bytes):
            reason = reason.decode("utf-8", "replace")
        raise InvalidInput(
            "The pattern is not a regular expression that can be used here.",
            fields={"patterns": [f"{reason}. RE2 syntax: no look-around and no back-references."]},
        ) from error


def choose(
    config: TenantConfig,
    *,
    channel_id: int,
    text: str,
    now: int,
    first_message: bool,
    answered: Mapping[int, int],
) -> ReplyRule | None:
    """The rule that answers a customer's message at `now`, or None.

    `first_message`: the message opens a conversation (greetings). `answered`: when each rule last
    answered in this conversation.
    """
    best: ReplyRule | None = None
    best_rank: tuple[int, int, int] | None = None
    for rule in config.rules.values():
        if not rule.active or (rule.channel_ids and channel_id not in rule.channel_ids):
            continue
        rank = (_ORDER[rule.kind], rule.priority, rule.id)
        if best_rank is not None and rank >= best_rank:
            continue
        last = answered.get(rule.id)
        if last is not None and now - last < rule.cooldown_seconds * 1000:
            continue
        if _applies(rule, config, text, now, first_message):
            best, best_rank = rule, rank
    return best


def would_trigger(
    config: TenantConfig, channel_id: int, text: str, now: int, first_message: bool
) -> ReplyRule | None:
    """What `choose` would say in a fresh conversation: the API's dry run."""
    return choose(config, channel_id=channel_id, text=text, now=now, first_message=first_message, answered={})


def render(template: str, variables: Mapping[str, str]) -> str:
    """Puts `{{ name }}` variables in. An unknown variable stays as it is, so that a typing mistake is
    seen rather than swallowed; values are put in once and never read as templates."""
    parts: list[str] = []
    rest = template
    while True:
        before, opening, after = rest.partition("{{")
        parts.append(before)
        if not opening:
            return "".join(parts)
        name, closing, rest = after.partition("}}")
        if not closing:
            parts.append(opening + name)
            return "".join(parts)
        value = variables.get(name.strip())
        parts.append(value if value is not None else "{{" + name + "}}")


def variables_for(config: TenantConfig, customer_name: str, agent_name: str | None) -> dict[str, str]:
    """The variables a reply may use: customer_name, first_name, business_name, agent_name."""
    return {
        "customer_name": customer_name,
        "first_name": customer_name.split()[0] if customer_name.split() else "",
        "business_name": config.name,
        "agent_name": agent_name or "",
    }


def _applies(rule: ReplyRule, config: TenantConfig, text: str, now: int, first_message: bool) -> bool:
    if rule.kind == "greeting":
        return first_message
    if rule.kind == "away":
        return not is_open(config.week, config.timezone, now)
    return _matches(rule, text[:TEXT_CHARACTERS_MAX])


def _matches(rule: ReplyRule, text: str) -> bool:
    if not text:
        return False
    if rule.match == "regex":
        return any(_search(pattern, text) for pattern in rule.patterns)
    folded = _fold(text)
    if rule.match == "exact":
        return any(folded == _fold(pattern) for pattern in rule.patterns)
    return any(_fold(pattern) in folded for pattern in rule.patterns)


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())


def _search(pattern: str, text: str) -> bool:
    try:
        return _compile(pattern).search(text) is not None
    except re2.error:
        # Checked when it was saved; a newer RE2 may still think otherwise. A rule that cannot be
        # compiled answers nothing, it does not stop the customer's message.
        return False


@lru_cache(maxsize=COMPILED_MAX)
def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.case_sensitive = False
    options.max_mem = REGEX_MEMORY_BYTES_MAX
    options.log_errors = False
    return re2.compile(pattern, options)
