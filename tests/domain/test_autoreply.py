"""Which rule answers, and with what words."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.domain.autoreply import check_pattern, choose, render, would_trigger
from engine.domain.config import Week
from engine.errors import InvalidInput
from tests.domain.desk import CHANNEL, NOON, config, rule


def chosen(
    *rules: Any,
    text: str = "hello",
    first: bool = False,
    answered: dict[int, int] | None = None,
    **changes: Any,
) -> int | None:
    found = choose(
        config(rules={each.id: each for each in rules}, **changes),
        channel_id=CHANNEL,
        text=text,
        now=NOON,
        first_message=first,
        answered=answered or {},
    )
    return found.id if found is not None else None


def test_keyword_goes_before_greeting_before_away() -> None:
    keyword, greeting, away = rule(3, "keyword", patterns=("hello",)), rule(2, "greeting"), rule(1, "away")
    closed = Week(days=((),) * 7)

    assert chosen(keyword, greeting, away, first=True, week=closed) == 3
    assert chosen(greeting, away, first=True, week=closed) == 2
    assert chosen(away, first=True, week=closed) == 1
    assert chosen(away, first=True) is None


def test_the_smallest_priority_wins_then_the_oldest() -> None:
    low = rule(1, "keyword", patterns=("hello",), priority=5)
    high = rule(2, "keyword", patterns=("hello",), priority=1)
    same = rule(3, "keyword", patterns=("hello",), priority=1)

    assert chosen(low, same, high) == 2


def test_inactive_rules_other_channels_and_cooldowns_are_passed_over() -> None:
    assert chosen(rule(1, "greeting", active=False), first=True) is None
    assert chosen(rule(1, "greeting", channel_ids=(99,)), first=True) is None
    assert chosen(rule(1, "greeting"), first=True, answered={1: NOON - 1000}) is None
    assert chosen(rule(1, "greeting"), first=True, answered={1: NOON - 3_600_000}) == 1


@pytest.mark.parametrize(
    ("match", "pattern", "text", "hit"),
    [
        ("contains", "price", "What PRICE is it?", True),
        ("contains", "price", "prize", False),
        ("exact", "Stop  now", " stop now ", True),
        ("exact", "stop", "stop it", False),
        ("regex", r"\border\s*#?\d+", "my Order #123", True),
        ("regex", r"^\d{4}$", "12345", False),
        ("contains", "سعر", "كم السعر؟", True),
    ],
)
def test_how_keywords_match(match: str, pattern: str, text: str, hit: bool) -> None:
    assert (chosen(rule(1, "keyword", match=match, patterns=(pattern,)), text=text) == 1) is hit


@pytest.mark.parametrize("pattern", ["(", "(?=x)", r"(a)\1", "x" * 600, "((a{100}){100}){100}"])
def test_a_pattern_that_cannot_be_bounded_is_refused_with_a_sentence(pattern: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        check_pattern(pattern)

    assert refusal.value.fields["patterns"]


def test_a_pattern_made_to_blow_up_a_backtracking_matcher_answers_at_once() -> None:
    """2**40 steps for a backtracking engine; linear here, so the test simply ends."""
    bomb = rule(1, "keyword", match="regex", patterns=(r"(a+)+$",))

    assert chosen(bomb, text="a" * 4000 + "!") is None


def test_variables_are_put_in_once_and_unknown_ones_stay_visible() -> None:
    text = render("Hi {{first_name}}, {{ nonsense }} {{", {"first_name": "{{business_name}}"})

    assert text == "Hi {{business_name}}, {{ nonsense }} {{"


@given(st.text(), st.dictionaries(st.text(max_size=5), st.text(max_size=5)))
def test_rendering_never_fails_and_leaves_text_without_variables_alone(
    template: str, variables: dict[str, str]
) -> None:
    rendered = render(template, variables)

    assert "{{" in template or rendered == template


def test_the_dry_run_says_what_a_fresh_conversation_would_get() -> None:
    found = would_trigger(config(rules={1: rule(1, "greeting")}), CHANNEL, "x", NOON, True)

    assert found is not None
    assert found.id == 1
