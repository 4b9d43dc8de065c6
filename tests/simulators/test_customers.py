"""The customers: who they are, how they talk, how they answer."""

import random
from typing import Any

import httpx
import phonenumbers
import pytest
import trio
from msgspec.structs import replace

from adapters.simulators import Settings, Simulator, Talk
from adapters.simulators.customers import WEIGHTS, Cast
from adapters.simulators.media import mp4_beginning, pdf, png, silent_voice_note, webp_pixel
from adapters.simulators.settings import Settings as AllSettings
from adapters.simulators.statuses import plan_statuses
from engine.errors import Conflicting, InvalidInput
from tests.patience import PATIENCE_SECONDS
from tests.plain import PLAIN
from tests.simulators.receiver import ACCOUNT, QUICK, playing


def test_one_seed_makes_the_same_people_and_another_makes_others() -> None:
    """Names, numbers and order."""
    first, again, other = (
        [one.person for one in Cast(random.Random(seed), 0.1).ensure(200)] for seed in (7, 7, 8)
    )
    assert first == again
    assert first != other


def test_customers_have_numbers_for_fiction_and_all_are_different() -> None:
    """Ranges that no real person has; parsable as international numbers."""
    people = [one.person for one in Cast(random.Random(1), 0.0).ensure(3_000)]
    numbers = [person.wa_id or "" for person in people]
    assert len(set(numbers)) == 3_000
    assert all(
        (number.startswith("1") and number[4:9] == "55501" and len(number) == 11)
        or (number.startswith("447700900") and len(number) == 12)
        or (number.startswith("3363998") and len(number) == 11)
        for number in numbers
    )
    assert all(phonenumbers.is_possible_number(phonenumbers.parse(f"+{number}")) for number in numbers)
    assert len({person.name for person in people}) > 50


def test_some_customers_hide_their_number() -> None:
    """They are found by their user id."""
    cast = Cast(random.Random(1), 1.0)
    (hidden,) = cast.ensure(1)
    assert hidden.person.wa_id is None
    assert cast.find(hidden.key) is hidden


@pytest.mark.parametrize("weights", [{"hologram": 1.0}, {"text": 0.0}, {}])
async def test_impossible_talk_is_refused(weights: dict[str, float]) -> None:
    """Unknown kinds, and nothing to say."""
    async with playing() as (platform, _):
        with pytest.raises(InvalidInput):
            platform.start_talking(Talk(weights=weights))


async def test_nobody_talks_to_a_number_that_is_not_connected() -> None:
    """`Conflicting`, and the platform stays silent."""
    async with Simulator([ACCOUNT]).running() as platform:
        with pytest.raises(Conflicting):
            platform.start_talking(Talk())


async def test_customers_talk_until_they_have_said_enough() -> None:
    """Exactly `messages_max`, from the given number of people, of many kinds."""
    async with playing() as (platform, receiver):
        talk = Talk(customers=10, messages_per_second=2_000, messages_max=150, answer_probability=0)
        platform.start_talking(talk)
        with trio.fail_after(PATIENCE_SECONDS):
            await platform.wait_talked()
            await platform.wait_quiet()
        # On a slow machine a delivery may be repeated.
        assert len({message["id"] for message in receiver.messages()}) == 150
        assert len({message["from"] for message in receiver.messages()}) <= 10
        assert len({message["type"] for message in receiver.messages()}) > 5
        assert platform.statistics()["told"]["message"]["acknowledged"] == 150


async def test_talk_ends_with_its_time_or_when_stopped() -> None:
    """By the clock, by hand, and by a new talk that takes its place."""
    async with playing() as (platform, _):
        states = []
        platform.start_talking(Talk(seconds=0.1))
        with trio.fail_after(PATIENCE_SECONDS):
            await platform.wait_talked()
        states.append(platform.talking)
        platform.start_talking(Talk())
        platform.start_talking(Talk(messages_per_second=5))
        await trio.sleep(0.05)
        states.append(platform.talking)
        platform.stop_talking()
        states.append(platform.talking)
        assert states == [False, True, False]


async def test_all_kinds_with_a_weight_are_drawn() -> None:
    """A long enough talk shows every kind, and no kind without a weight."""
    async with playing() as (platform, _):
        customer = platform.cast.adopt("15550100001")
        customer.heard.append("wamid.heard")
        drawn = set()
        for _ in range(8_000):
            kind = platform.cast.draw_kind(customer, WEIGHTS)
            drawn.add(kind)
            if kind == "reaction":
                customer.reacted_to = "wamid.heard"
            customer.said.append("wamid.said")
            customer.said_texts.append("wamid.said")
        assert drawn == {kind for kind, weight in WEIGHTS.items() if weight > 0}


BUTTONS = {
    "type": "interactive",
    "interactive": {
        "type": "button",
        "body": {"text": "?"},
        "action": {"buttons": [{"type": "reply", "reply": {"id": "y", "title": "Yes"}}]},
    },
}
ROWS = {
    "type": "interactive",
    "interactive": {
        "type": "list",
        "body": {"text": "?"},
        "action": {"button": "b", "sections": [{"rows": [{"id": "r", "title": "Row", "description": "d"}]}]},
    },
}


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (BUTTONS, {"type": "button_reply", "button_reply": {"id": "y", "title": "Yes"}}),
        (ROWS, {"type": "list_reply", "list_reply": {"id": "r", "title": "Row", "description": "d"}}),
        ({"type": "text", "text": {"body": "How can I help?"}}, None),
    ],
)
async def test_customers_answer_agents_while_they_talk(
    sent: dict[str, Any], answered: dict[str, Any] | None
) -> None:
    """Buttons and lists with one of their choices, quoting the message; texts with something."""
    async with playing() as (platform, receiver):
        with trio.fail_after(PATIENCE_SECONDS):
            platform.say("15550100001", "hello")
            await platform.wait_quiet()
        platform.start_talking(
            Talk(messages_per_second=0.001, answer_probability=1.0, answer_seconds=(0.0, 0.01))
        )
        async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, **PLAIN) as client:
            response = await client.post(
                f"{platform.base_url}/v25.0/{ACCOUNT.phone_number_id}/messages",
                json={"messaging_product": "whatsapp", "to": "15550100001"} | sent,
                headers={"Authorization": f"Bearer {ACCOUNT.access_token}"},
            )
        send_id = response.json()["messages"][0]["id"]
        with trio.fail_after(PATIENCE_SECONDS):
            await platform.wait_quiet()
        said = [one for one in receiver.messages() if one["from"] == "15550100001"]
        assert len(said) == 2
        if answered is not None:
            assert said[1]["interactive"] == answered
            assert said[1]["context"] == {"from": ACCOUNT.display_phone_number, "id": send_id}


async def test_nobody_answers_when_nobody_talks() -> None:
    """A connected simulator that was not told to talk only reports statuses."""
    async with playing(replace(QUICK, window_enforced=False)) as (platform, receiver):
        async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, **PLAIN) as client:
            await client.post(
                f"{platform.base_url}/v25.0/{ACCOUNT.phone_number_id}/messages",
                json={"messaging_product": "whatsapp", "to": "15550100001", "text": {"body": "hi"}},
                headers={"Authorization": f"Bearer {ACCOUNT.access_token}"},
            )
        with trio.fail_after(PATIENCE_SECONDS):
            await platform.wait_quiet()
        assert receiver.messages() == []
        assert receiver.statuses() != []


def test_calm_statuses_rise_and_their_moments_too() -> None:
    """sent < delivered < read < played, each later than the one before."""
    rng = random.Random(3)
    ranks = ["sent", "delivered", "read", "played"]
    for _ in range(500):
        plan = plan_statuses(rng, AllSettings(), voice=True)
        names = [name for _, name in plan]
        assert names == ranks[: len(names)]
        assert len(names) >= 2
        assert [moment for moment, _ in plan] == sorted(moment for moment, _ in plan)


def test_a_rough_platform_has_every_habit() -> None:
    """`rough` turns all of them on and keeps the limits."""
    calm, rough = Settings(), Settings().rough()
    assert rough.sends_per_second_max == calm.sends_per_second_max
    assert (
        min(
            rough.duplicate_probability,
            rough.late_probability,
            rough.batch_probability,
            rough.status_disorder_probability,
            rough.failure_probability,
        )
        > 0
    )


def test_customers_files_are_what_they_say() -> None:
    """Magic numbers, lengths in the headers, and the checksums that Ogg and PNG ask for."""
    assert png(1, 2, 3).endswith(b"IEND\xaeB`\x82")
    paper = pdf("Invoice 1")
    assert paper[int(paper.split()[-2]) :].startswith(b"xref")
    webp = webp_pixel()
    assert int.from_bytes(webp[4:8], "little") == len(webp) - 8
    assert mp4_beginning()[4:8] == b"ftyp"
    voice = silent_voice_note(6)
    pages = [b"OggS" + page for page in voice.split(b"OggS")[1:]]
    assert len(pages) == 4
    assert b"OpusHead" in pages[0]
    assert [_ogg_crc(page) for page in pages] == [int.from_bytes(page[22:26], "little") for page in pages]


def _ogg_crc(page: bytes) -> int:
    """RFC 3533's checksum, bit by bit: the remainder of the page with a zero checksum, and 32 zero bits."""
    crc = 0
    for byte in page[:22] + bytes(4) + page[26:]:
        crc ^= byte << 24
        for _ in range(8):
            crc = ((crc << 1) ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
    return crc
