"""Every adapter's outbound half: what is carried, degraded or refused, what codes mean, what it says of
itself."""

from typing import Any

import pytest

from adapters.guard import Guard
from adapters.port import Account, Adapter, ErrorClass, Tools
from engine.domain.outbound import (
    MediaRef,
    Option,
    Send,
    SendInteractive,
    SendLocation,
    SendMedia,
    SendReaction,
    SendTemplate,
    SendText,
)
from engine.errors import InvalidInput
from tests.adapters.contract.case import case_of, every_adapter
from tests.adapters.contract.files import Files

ADAPTERS = every_adapter()
each_adapter = pytest.mark.parametrize("adapter", ADAPTERS, ids=[each.platform.name for each in ADAPTERS])

OPTIONS = tuple(Option(id=f"o{number}", title=f"Choice {number}") for number in range(3))
KINDS: dict[str, Send] = {
    kind: SendInteractive(kind=kind, body="Which one?", options=OPTIONS, button="Choose")
    for kind in ("buttons", "list", "quick_replies")
}
TYPES: dict[str, Send] = {
    "text": SendText(body="Hello"),
    **{
        kind: SendMedia(media=MediaRef(kind=kind, link=f"https://files.example/a.{kind}"))
        for kind in ("image", "video", "audio", "voice", "document", "sticker")
    },
    "location": SendLocation(latitude=21.5, longitude=39.2, name="Shop"),
    "template": SendTemplate(name="hello_world", language="en_US"),
    "reaction": SendReaction(platform_message_id="m.1", emoji="👍"),
}


def tools() -> Tools:
    return Tools(media=Files({}), guard=Guard(), link=lambda tenant_id, key: f"https://files.example/{key}")


def said(send: Send) -> list[str]:
    """What of a send a customer must be able to read, however it is put."""
    match send:
        case SendInteractive():
            return [send.body, *(option.title for option in send.options)]
        case SendLocation():
            return [send.name or ""]
        case SendText():
            return [send.body]
        case _:
            return []


def check_fit(adapter: Adapter, send: Send, *, carried: bool, rule: str | None) -> None:
    sender = adapter.sender(tools())
    if carried:
        fitted = sender.fit(send)
        assert (fitted.send, fitted.note) == (send, None)
    elif rule is not None:
        fitted = sender.fit(send)
        assert fitted.note == rule
        shown = repr(fitted.send)
        assert all(word in shown for word in said(send))
        assert sender.fit(fitted.send).note is None
    else:
        with pytest.raises(InvalidInput) as caught:
            sender.fit(send)
        sentences = [one for some in caught.value.fields.values() for one in some]
        assert sentences
        assert all(one.endswith(".") for one in sentences)


@pytest.mark.parametrize("kind", TYPES)
@each_adapter
def test_a_type_is_carried_degraded_or_refused(adapter: Adapter, kind: str) -> None:
    """As the capabilities say; what is degraded loses no word, and the agent is told by which rule."""
    can = adapter.platform.capabilities
    send = case_of(adapter.platform.name).sends.get(kind, TYPES[kind])
    check_fit(adapter, send, carried=kind in can.sends, rule=can.degrades.get(kind))


@each_adapter
def test_a_reaction_is_judged_before_its_message_is_named(adapter: Adapter) -> None:
    """An agent hears at once that the platform has none, and where it has some, that it may go."""
    can = adapter.platform.capabilities
    unnamed = SendReaction(platform_message_id="", emoji="👍")
    check_fit(adapter, unnamed, carried="reaction" in can.sends, rule=can.degrades.get("reaction"))


@pytest.mark.parametrize("kind", KINDS)
@each_adapter
def test_choices_are_carried_degraded_or_refused(adapter: Adapter, kind: str) -> None:
    """Likewise, for each kind of interactive message."""
    can = adapter.platform.capabilities
    assert ("interactive" in can.sends) == bool(can.interactive)
    check_fit(adapter, KINDS[kind], carried=kind in can.interactive, rule=can.degrades.get("interactive"))


@each_adapter
def test_what_is_empty_or_too_long_is_refused_with_its_field(adapter: Adapter) -> None:
    """Also where the platform has no limit of its own: nobody sends a book."""
    sender = adapter.sender(tools())
    for body in ("", " \n", "x" * 70_000):
        with pytest.raises(InvalidInput) as caught:
            sender.fit(SendText(body=body))
        assert "body" in caught.value.fields


@each_adapter
def test_every_code_has_its_class(adapter: Adapter) -> None:
    """Those of the platform's documentation the one that follows from it, others one that ends: a refusal
    that nobody knows is not repeated for a day."""
    codes = case_of(adapter.platform.name).codes
    assert ErrorClass.AUTH in codes.values()
    for code, error_class in codes.items():
        assert adapter.classify(code) is error_class, code
    for unknown in ("987654", "", "no-code", "é", "-1"):
        assert adapter.classify(unknown) in (ErrorClass.BAD_REQUEST, ErrorClass.RECIPIENT), unknown


@each_adapter
def test_the_pace_is_that_of_an_account(adapter: Adapter) -> None:
    """Positive numbers, whatever is in an account's settings."""
    sender = adapter.sender(tools())
    odd: list[dict[str, Any]] = [
        {},
        {"messages_per_second": "x"},
        {"messages_per_second": -3, "concurrency": 0},
    ]
    for settings in odd:
        limits = sender.limits(account(adapter, settings))
        assert limits.messages_per_second >= 1
        assert limits.concurrency >= 1
        assert limits.pair_burst >= 1
        assert limits.pair_seconds >= 0


def account(adapter: Adapter, settings: dict[str, Any]) -> Account:
    return Account(
        tenant_id=1,
        channel_id=2,
        platform=adapter.platform.name,
        external_id="1",
        credentials={},
        settings=settings,
    )


@each_adapter
def test_an_account_says_what_it_consists_of(adapter: Adapter) -> None:
    """Sentences for people, no name twice, and a stand-in's keys are a complete account."""
    connection = adapter.platform.connection
    fields = [connection.account, *connection.credentials, *connection.settings]
    fields += [connection.parent] if connection.parent is not None else []
    assert all(field.label for field in fields)
    assert len({field.name for field in fields}) == len(fields)
    assert connection.problems({}, {}, whole=True) or not any(
        each.required for each in connection.credentials
    )
    assert connection.problems({"no_such": "x"}, {}, whole=False)
    for stand_in in adapter.stand_ins().values():
        for keys in (stand_in.new_keys(), stand_in.demo_keys()):
            names = {each.name for each in connection.credentials}
            given = {name: value for name, value in keys.items() if name in names}
            assert connection.problems(given, {}, whole=True) == {}
            assert connection.account.problem(keys[connection.account.name]) is None
        assert stand_in.new_keys() != stand_in.new_keys()
        assert stand_in.demo_keys() == stand_in.demo_keys()
