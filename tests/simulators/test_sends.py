"""What the Graph send endpoint takes and refuses, and the platform's two rate limits, without a network."""

import copy
from typing import Any

import pytest

from adapters.simulators.graph_errors import GraphError
from adapters.simulators.limits import NumberLimit, PairLimit
from adapters.simulators.sends import OutboundMessage, ReadMark, read_send
from adapters.simulators.settings import Settings

Json = dict[str, Any]
TEMPLATES = Settings().templates


def _interactive(action: Json, kind: str, **more: Any) -> Json:
    return {
        "type": "interactive",
        "interactive": {"type": kind, "body": {"text": "b"}, "action": action, **more},
    }


def _button(number: int, title: str | None = None) -> Json:
    return {"type": "reply", "reply": {"id": f"b{number}", "title": title or f"Title {number}"}}


def _rows(count: int, first: int = 0) -> list[Json]:
    return [
        {"id": f"r{number}", "title": "t" * 24, "description": "d" * 72}
        for number in range(first, first + count)
    ]


def _list(*sections: list[Json]) -> Json:
    return {
        "button": "Choose",
        "sections": [{"title": f"S{number}", "rows": rows} for number, rows in enumerate(sections)],
    }


def _template(name: str, *texts: str, language: str = "en_US") -> Json:
    body = {"type": "body", "parameters": [{"type": "text", "text": text} for text in texts]}
    template = {"name": name, "language": {"code": language}, "components": [body]}
    return {"type": "template", "template": template}


GOOD: dict[str, Json] = {
    "text": {"type": "text", "text": {"body": "x" * 4_096, "preview_url": True}},
    "type left out": {"text": {"body": "x"}},
    "quote": {"type": "text", "text": {"body": "x"}, "context": {"message_id": "wamid.1"}},
    "image by id": {"type": "image", "image": {"id": "1", "caption": "c" * 1_024}},
    "document by link": {"type": "document", "document": {"link": "https://x.example/f", "filename": "f"}},
    "audio": {"type": "audio", "audio": {"id": "1"}},
    "sticker": {"type": "sticker", "sticker": {"id": "1"}},
    "location": {"type": "location", "location": {"latitude": 24.7, "longitude": "46.6", "name": "n"}},
    "contacts": {"type": "contacts", "contacts": [{"name": {"formatted_name": "A"}}]},
    "reaction": {"type": "reaction", "reaction": {"message_id": "wamid.1", "emoji": "👍"}},
    "reaction removed": {"type": "reaction", "reaction": {"message_id": "wamid.1", "emoji": ""}},
    "buttons": _interactive({"buttons": [_button(n) for n in range(3)]}, "button"),
    "list of ten rows": _interactive(_list(_rows(4), _rows(6, 4)), "list"),
    "link button": _interactive(
        {"name": "cta_url", "parameters": {"display_text": "Open", "url": "https://x.example"}}, "cta_url"
    ),
    "flow": _interactive(
        {"name": "flow", "parameters": {"flow_message_version": "3", "flow_id": "1", "flow_cta": "Go"}},
        "flow",
    ),
    "location request": _interactive({"name": "send_location"}, "location_request_message"),
    "template": _template("order_confirmation", "A", "B"),
    "template in arabic": _template("order_confirmation", "A", "B", language="ar"),
}

BAD: list[tuple[str, int, Json]] = [
    ("no body", 131008, {"type": "text", "text": {}}),
    ("empty body", 131008, {"type": "text", "text": {"body": ""}}),
    ("no content", 131008, {"type": "image"}),
    ("long text", 100, {"type": "text", "text": {"body": "x" * 4_097}}),
    ("text that is a number", 100, {"type": "text", "text": {"body": 1}}),
    ("unknown type", 131051, {"type": "hologram", "hologram": {}}),
    ("type that is an object", 131051, {"type": {}}),
    ("neither id nor link", 131008, {"type": "image", "image": {"caption": "c"}}),
    ("id and link", 131009, {"type": "image", "image": {"id": "1", "link": "https://x.example"}}),
    ("link to a file", 131009, {"type": "image", "image": {"link": "file:///etc/passwd"}}),
    ("caption of a voice note", 131009, {"type": "audio", "audio": {"id": "1", "caption": "c"}}),
    ("long caption", 100, {"type": "image", "image": {"id": "1", "caption": "c" * 1_025}}),
    ("latitude 91", 131009, {"type": "location", "location": {"latitude": 91, "longitude": 0}}),
    ("no longitude", 131008, {"type": "location", "location": {"latitude": 1}}),
    ("no contact", 131009, {"type": "contacts", "contacts": []}),
    ("reaction to nothing", 131008, {"type": "reaction", "reaction": {"emoji": "👍"}}),
    ("four buttons", 131009, _interactive({"buttons": [_button(n) for n in range(4)]}, "button")),
    ("twin titles", 131009, _interactive({"buttons": [_button(1, "A"), _button(2, "A")]}, "button")),
    ("long title", 100, _interactive({"buttons": [_button(1, "A" * 21)]}, "button")),
    ("long footer", 100, _interactive({"buttons": [_button(1)]}, "button", footer={"text": "f" * 61})),
    ("eleven rows", 131009, _interactive(_list(_rows(6), _rows(5, 6)), "list")),
    ("twin rows", 131009, _interactive(_list(_rows(2), _rows(1)), "list")),
    ("picture above a list", 131009, _interactive(_list(_rows(1)), "list", header={"type": "image"})),
    ("list without label", 131008, _interactive({"sections": [{"title": "S", "rows": _rows(1)}]}, "list")),
    ("unknown interactive", 131009, _interactive({}, "hologram")),
    ("unknown template", 132001, _template("nobody_knows_this")),
    ("template in another language", 132001, _template("seasonal_offer", "A", language="fr")),
    ("one parameter too few", 132000, _template("order_confirmation", "A")),
    ("long callback data", 100, {"text": {"body": "x"}, "biz_opaque_callback_data": "x" * 513}),
    ("no recipient", 100, {"to": None, "text": {"body": "x"}}),
    ("recipient without digits", 131009, {"to": "somebody", "text": {"body": "x"}}),
    ("recipient that is a number", 100, {"to": 15550100001, "text": {"body": "x"}}),
    ("wrong product", 100, {"messaging_product": "telegram", "text": {"body": "x"}}),
    ("wrong status", 131009, {"status": "unread", "message_id": "wamid.1"}),
    ("read nothing", 131008, {"status": "read"}),
]


def _whole(part: Json) -> Json:
    return {"messaging_product": "whatsapp", "to": "+1 (555) 010-0001"} | copy.deepcopy(part)


@pytest.mark.parametrize("name", GOOD)
def test_every_kind_within_its_limits_is_taken(name: str) -> None:
    """Section 5.1 at the limit; the recipient comes out as digits."""
    sent = read_send(_whole(GOOD[name]), TEMPLATES)
    assert isinstance(sent, OutboundMessage)
    assert (sent.recipient, sent.type) == ("15550100001", GOOD[name].get("type", "text"))


@pytest.mark.parametrize(("name", "code", "part"), BAD, ids=[name for name, _, _ in BAD])
def test_each_violation_has_its_code(name: str, code: int, part: Json) -> None:
    """One step beyond each limit."""
    with pytest.raises(GraphError) as refused:
        read_send(_whole(part), TEMPLATES)
    assert refused.value.code == code


def test_a_user_id_may_stand_for_the_number() -> None:
    """`recipient` takes a business-scoped user id."""
    sent = read_send(
        {"messaging_product": "whatsapp", "recipient": "US.1349", "type": "text", "text": {"body": "x"}}, ()
    )
    assert isinstance(sent, OutboundMessage)
    assert sent.recipient == "US.1349"


def test_read_marks_may_show_typing() -> None:
    """Section 5.3."""
    mark = {"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.1"}
    assert read_send(mark, ()) == ReadMark(message_id="wamid.1", typing=False)
    assert read_send(mark | {"typing_indicator": {"type": "text"}}, ()) == ReadMark(
        message_id="wamid.1", typing=True
    )


def test_no_window_of_one_second_holds_more_than_the_limit() -> None:
    """80 at once, none more until the first of them is a second old."""
    limit = NumberLimit(80)
    admitted: list[float] = []
    for step in range(300):
        now = step / 100
        while limit.has_room(now):
            limit.count(now)
            admitted.append(now)
    assert len(admitted) == 240
    assert all(sum(start <= at < start + 1 for at in admitted) <= 80 for start in set(admitted))
    assert limit.peak == 80


def test_a_burst_to_one_user_is_paid_back_before_the_next_message() -> None:
    """45 at once, then one per 6 s; another user has a budget of its own."""
    limit = PairLimit(6, 45)
    assert [limit.admit("n", "u", 0.0) for _ in range(46)] == [True] * 45 + [False]
    assert not limit.admit("n", "u", 3.0)
    assert limit.admit("n", "u", 6.0)
    assert not limit.admit("n", "u", 6.0)
    assert limit.admit("n", "other", 6.0)
    assert sum(limit.admit("n", "u", 6.0 + 45 * 6) for _ in range(46)) == 45
