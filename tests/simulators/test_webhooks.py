"""How the platform tells a server what happened, over real HTTP."""

import httpx
import pytest
import trio
from msgspec.structs import replace

from adapters.simulators import Settings, Simulator
from adapters.simulators.builders import text_message
from adapters.simulators.customers import KINDS
from engine.errors import Conflicting, DeliveryFailed, MailboxFull, Unavailable
from tests.patience import PATIENCE_SECONDS, until
from tests.plain import PLAIN
from tests.simulators.receiver import ACCOUNT, OTHER, QUICK, Receiver, listening, playing


async def _quiet(platform: Simulator) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        await platform.wait_quiet()


async def test_a_message_arrives_signed_and_in_the_platforms_bytes() -> None:
    """The receiver checks HMAC over the exact bytes; the ledger has the acknowledgement."""
    async with playing() as (platform, receiver):
        message_id = platform.say("15550100001", "مرحبا / hello", name="ليلى")
        await _quiet(platform)
        assert receiver.messages()[0]["text"]["body"] == "مرحبا / hello"
        assert rb"\u0645" in receiver.bodies[0]
        assert rb"\/ hello" in receiver.bodies[0]
        assert receiver.bad_signatures == 0
        fact = platform.ledger.message(message_id)
        assert fact is not None
        assert (fact.attempts, fact.acknowledgements, fact.type) == (1, 1, "text")


async def test_the_handshake_must_echo_the_challenge() -> None:
    """A wrong token refuses the connection, and the number stays silent."""
    receiver = Receiver(verify_token="another")
    async with (
        listening(receiver.answer) as server,
        Simulator([ACCOUNT], settings=QUICK).running() as platform,
    ):
        with pytest.raises(DeliveryFailed, match="403"):
            await platform.connect(server.base_url)
        with pytest.raises(Conflicting):
            platform.say("15550100001", "hello")
        receiver.verify_token = ACCOUNT.verify_token
        await platform.connect(server.base_url)
        platform.say("15550100001", "hello")
        await _quiet(platform)
        assert len(receiver.messages()) == 1


async def test_it_is_silent_until_told_to_speak() -> None:
    """A connected simulator posts nothing of its own accord."""
    async with playing() as (platform, receiver):
        await trio.sleep(0.1)
        assert receiver.bodies == []
        assert not platform.talking


async def test_anything_but_200_is_repeated_until_200() -> None:
    """201, 401, 500 and 503 are no acknowledgement; the same bytes come again; only 200 counts."""
    async with playing() as (platform, receiver):
        receiver.answers.extend((201, 401, 500, 503))
        message_id = platform.say("15550100001", "hello")
        await _quiet(platform)
        assert len(receiver.bodies) == 5
        assert len(set(receiver.bodies)) == 1
        fact = platform.ledger.message(message_id)
        assert fact is not None
        assert (fact.attempts, fact.acknowledgements) == (5, 1)
        assert platform.ledger.outcomes == {"201": 1, "401": 1, "500": 1, "503": 1, "200": 1}


async def test_no_answer_in_time_and_no_server_are_repeated_too() -> None:
    """A hanging and an absent server; what is told meanwhile is not lost."""
    settings = replace(QUICK, webhook_answer_seconds_max=0.1)
    async with playing(settings) as (platform, receiver):
        receiver.hang_seconds = 0.5
        first = platform.say("15550100001", "hello")
        await until(lambda: platform.ledger.outcomes["timeout"])
        receiver.hang_seconds = 0.0
        await _quiet(platform)
        fact = platform.ledger.message(first)
        assert fact is not None
        assert fact.acknowledged_at is not None

        async with listening(receiver.answer) as server:
            port = server.port
        await platform.connect(f"http://127.0.0.1:{port}/", check=False)
        second = platform.say("15550100001", "anyone there?")
        await until(lambda: platform.ledger.outcomes["refused"])
        assert platform.webhooks.statistics()["waiting"] == 1
        lost = platform.ledger.message(second)
        assert lost is not None
        assert lost.acknowledged_at is None


async def test_after_the_retry_time_an_event_is_given_up_and_the_ledger_says_so() -> None:
    """The scaled seven days end."""
    async with playing(replace(QUICK, retry_seconds_max=0.1)) as (platform, receiver):
        receiver.answers.extend([500] * 100)
        message_id = platform.say("15550100001", "hello")
        await _quiet(platform)
        fact = platform.ledger.message(message_id)
        assert fact is not None
        assert (fact.abandoned, fact.acknowledged_at) == (True, None)
        assert platform.statistics()["told"]["message"]["abandoned"] == 1


async def test_duplicates_are_the_same_bytes_and_are_counted() -> None:
    """With certainty of duplicates each message comes 1 + duplicates_max times."""
    async with playing(replace(QUICK, duplicate_probability=1.0, duplicates_max=2)) as (platform, receiver):
        for number in range(5):
            platform.say(f"1555010000{number}", "hello")
        await _quiet(platform)
        assert len(receiver.bodies) == 15
        assert len(set(receiver.bodies)) == 5
        assert platform.statistics()["told"]["message"] == {
            "created": 5,
            "acknowledged": 5,
            "repeated": 10,
            "abandoned": 0,
        }


async def test_batches_carry_many_events_of_many_numbers_and_lose_none() -> None:
    """Two numbers of one app share POSTs: several entries, several messages in one value."""
    sibling = replace(OTHER, app_secret=ACCOUNT.app_secret, verify_token=ACCOUNT.verify_token)
    settings = replace(QUICK, batch_probability=1.0, batch_events_max=7)
    async with playing(settings, (ACCOUNT, sibling)) as (platform, receiver):
        said = [
            platform.say(
                f"1555010{number:04}", "hi", account_id=(ACCOUNT, sibling)[number % 2].phone_number_id
            )
            for number in range(20)
        ]
        await _quiet(platform)
        assert sorted(message["id"] for message in receiver.messages()) == sorted(said)
        assert len(receiver.bodies) == 3
        assert {len(payload["entry"]) for payload in receiver.taken} == {2}
        assert receiver.bad_signatures == 0
        told = {value["metadata"]["phone_number_id"]: len(value["messages"]) for value in receiver.values()}
        assert told.keys() == {ACCOUNT.phone_number_id, sibling.phone_number_id}


async def test_apps_with_different_secrets_never_share_a_body() -> None:
    """Each body is signed with one key, so another app's events travel alone."""
    other = Receiver(secret=OTHER.app_secret, verify_token=OTHER.verify_token)
    async with (
        playing(replace(QUICK, batch_probability=1.0), (ACCOUNT,)) as (_, _first),
        listening(other.answer) as server,
        Simulator([ACCOUNT, OTHER], settings=replace(QUICK, batch_probability=1.0)).running() as platform,
    ):
        await platform.connect(server.base_url, check=False)
        platform.say("15550100001", "hi", account_id=OTHER.phone_number_id)
        platform.say("15550100001", "hi", account_id=ACCOUNT.phone_number_id)
        await until(lambda: other.values() and other.bad_signatures)
        assert [value["metadata"]["phone_number_id"] for value in other.values()] == [OTHER.phone_number_id]


async def test_late_events_are_overtaken() -> None:
    """With half of the events held back the order changes and nothing is lost."""
    async with playing(replace(QUICK, late_probability=0.5)) as (platform, receiver):
        said = [platform.say("15550100001", str(number)) for number in range(30)]
        await _quiet(platform)
        arrived = [message["id"] for message in receiver.messages()]
        assert sorted(arrived) == sorted(said)
        assert arrived != said


async def test_too_many_waiting_events_are_refused() -> None:
    """The limit holds while the server answers nothing but 500."""
    async with playing(replace(QUICK, events_waiting_max=3)) as (platform, receiver):
        receiver.answers.extend([500] * 1_000)
        for _ in range(3):
            platform.say("15550100001", "hello")
        with pytest.raises(MailboxFull):
            platform.say("15550100001", "hello")
        receiver.answers.clear()
        await _quiet(platform)
        assert len(receiver.messages()) == 3


async def test_a_full_ledger_refuses_to_go_on() -> None:
    """Nothing is told that could not be recorded."""
    async with playing(replace(QUICK, ledger_records_max=2)) as (platform, receiver):
        for _ in range(2):
            platform.say("15550100001", "hello")
        with pytest.raises(Unavailable) as full:
            platform.say("15550100001", "hello")
        assert full.value.code == "ledger_full"
        await _quiet(platform)
        assert len(receiver.messages()) == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_can_be_said(kind: str) -> None:
    """Each arrives with a type and is in the ledger under it."""
    async with playing() as (platform, receiver):
        customer = platform.cast.adopt("15550100001")
        message_id = platform.send(customer, kind)
        await _quiet(platform)
        (message,) = receiver.messages()
        fact = platform.ledger.message(message_id)
        assert fact is not None
        assert (message["id"], message["type"]) == (fact.id, fact.type)


async def test_a_message_built_by_hand_travels_like_any_other() -> None:
    """Scripts may say what no customer would."""
    async with playing() as (platform, receiver):
        customer = platform.cast.adopt("15550100001")
        text = text_message(customer.person, "wamid.mine", 1, "b")
        message = text | {"type": "hologram", "hologram": {"x": 1}}
        said = platform.said_by_hand(ACCOUNT, customer, message)
        assert platform.tell(ACCOUNT, customer, said) == "wamid.mine"
        await _quiet(platform)
        assert receiver.messages()[0]["hologram"] == {"x": 1}


async def test_echoes_and_template_news_have_their_own_fields() -> None:
    """`smb_message_echoes` and `message_template_status_update`."""
    async with playing() as (platform, receiver):
        platform.echo(platform.cast.adopt("15550100001"), "from the phone")
        platform.tell_template_status("hello_world", "PAUSED")
        await _quiet(platform)
        fields = {change["field"] for one in receiver.taken for change in one["entry"][0]["changes"]}
        assert fields == {"smb_message_echoes", "message_template_status_update"}


async def test_raw_bytes_can_be_posted_with_and_without_a_signature() -> None:
    """For tests of bad input: the outcome comes back, the ledger stays out of it."""
    async with playing() as (platform, receiver):
        assert await platform.post_raw(b"{}") == "200"
        assert await platform.post_raw(b"{}", signed=False) == "401"
        assert platform.ledger.facts == []
        assert receiver.bad_signatures == 1


async def test_stopping_in_the_middle_of_everything_is_clean() -> None:
    """Leaving the block with deliveries in flight ends at once, without errors."""
    receiver = Receiver()
    receiver.hang_seconds = 3600
    with trio.fail_after(PATIENCE_SECONDS):
        async with listening(receiver.answer) as server:
            async with Simulator([ACCOUNT], settings=Settings()).running() as platform:
                await platform.connect(server.base_url)
                for _ in range(50):
                    platform.say("15550100001", "hello")
                await trio.sleep(0.1)
            async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, **PLAIN) as client:
                with pytest.raises(httpx.ConnectError):
                    await client.get(platform.base_url)


@pytest.mark.parametrize("url", ["nonsense", "http://[bad", "http://127.0.0.1:1/"])
async def test_an_impossible_callback_address_is_an_outcome_and_no_crash(url: str) -> None:
    """The event waits and is repeated; a good address takes over for what is said afterwards."""
    async with playing() as (platform, receiver):
        await platform.connect(url, check=False)
        platform.say("15550100001", "into the void")
        await until(lambda: platform.ledger.outcomes)
        assert "200" not in platform.ledger.outcomes
        await platform.connect(receiver.url)
        platform.say("15550100001", "hello")
        await until(receiver.messages)
        assert [message["text"]["body"] for message in receiver.messages()] == ["hello"]
