"""The platform misbehaves: agents' messages wait, go out once, or are shown as failed; customers go on."""

from datetime import datetime

import pytest

from adapters.simulators.faults import Fault
from storage.databases import DatabaseServer
from tests.fixtures.system import Json, Line, until
from tests.ledger import books_of
from tests.patience import PATIENCE_SECONDS

ONCE = [
    pytest.param(Fault(kind="error", code=131000, status=500, times=1), id="500"),
    pytest.param(Fault(kind="error", code=130429, status=429, times=1), id="429 without Retry-After"),
    pytest.param(Fault(kind="error", code=131000, status=503, times=1, retry_after_seconds=1), id="503"),
    pytest.param(Fault(kind="slow", seconds=2.0, times=1), id="slow"),
]

TAKEN = [
    pytest.param(Fault(kind="garbage", accepts=True, times=1), id="garbage"),
    pytest.param(Fault(kind="garbage", status=502, accepts=True, times=1), id="a bad gateway"),
    pytest.param(Fault(kind="reset", accepts=True, times=1), id="reset"),
    pytest.param(Fault(kind="hang", accepts=True, seconds=1.5, times=1), id="hang"),
]

LOST = [
    pytest.param(Fault(kind="garbage", times=1), id="garbage"),
    pytest.param(Fault(kind="reset", times=1), id="reset"),
    pytest.param(Fault(kind="hang", seconds=1.5, times=1), id="hang"),
]


async def answered_under(phone: Line, fault: Fault) -> Json:
    """A message that is sent while the fault is armed, once it was read; a customer is heard meanwhile."""
    conversation = await phone.opened()
    phone.sim.fault(fault)
    sent = await phone.agent.say(conversation["id"], "Through thick and thin")
    await phone.opened("Do you hear me?")
    return await phone.agent.reaches(sent, "read")


@pytest.mark.parametrize("fault", ONCE)
async def test_a_refused_send_is_tried_again(any_phone: Line, database: DatabaseServer, fault: Fault) -> None:
    """The platform said that it did not take it, so it is sent again without a flag, and arrives once."""
    message = await answered_under(any_phone, fault)
    assert "resent" not in message["metadata"]
    any_phone.payload_of(message)
    any_phone.server.no_tracebacks()
    books = await books_of(any_phone.business, any_phone.sim, any_phone.channel_id, database)
    books.note(message)
    await books.settle()
    await books.check()


async def test_retry_after_is_kept(any_phone: Line) -> None:
    """Nothing is sent to the platform before the time that it asked for."""
    conversation = await any_phone.opened()
    any_phone.sim.fault(Fault(kind="error", code=130429, status=429, times=1, retry_after_seconds=3))
    sent = await any_phone.agent.say(conversation["id"], "As you wish")

    async def refused() -> bool:
        return bool(any_phone.sim.ledger.refusals[130429])

    await until("the platform refused", refused)
    await any_phone.agent.reaches(sent, "read")
    (send,) = any_phone.sim.ledger.sends
    created = await any_phone.agent.message(conversation["id"], sent["id"])
    assert created["status"] == "read"
    assert send.accepted_at - _ms(sent["created_at"]) >= 3_000


@pytest.mark.parametrize("fault", TAKEN)
async def test_an_unknown_outcome_that_was_a_success_is_not_sent_again(any_phone: Line, fault: Fault) -> None:
    """Taken, but the answer was spoilt: the platform's status webhook settles it."""
    message = await answered_under(any_phone, fault)
    any_phone.payload_of(message)
    assert "resent" not in message["metadata"]
    any_phone.server.no_tracebacks()


@pytest.mark.parametrize("fault", LOST)
async def test_an_unknown_outcome_that_was_a_failure_is_sent_again_and_flagged(
    any_phone: Line, fault: Fault
) -> None:
    """Nobody can tell it from the other case: after a wait for the platform's word it goes out again."""
    message = await answered_under(any_phone, fault)
    any_phone.payload_of(message)
    assert message["metadata"]["resent"] is True
    any_phone.server.no_tracebacks()


async def test_a_platform_that_is_gone_is_waited_for(any_phone: Line) -> None:
    """Refused connections cannot have delivered anything: no flag, one send, in order."""
    conversation = await any_phone.opened()
    any_phone.sim.go_down(2.0)
    first = await any_phone.agent.say(conversation["id"], "First")
    second = await any_phone.agent.say(conversation["id"], "Second")
    await any_phone.agent.reaches(second, "read", 2 * PATIENCE_SECONDS)
    told = [any_phone.payload_of(await any_phone.agent.message(conversation["id"], one["id"]))
            for one in (first, second)]  # fmt: skip
    assert [one["text"]["body"] for one in told] == ["First", "Second"]
    assert [send.callback_data for send in any_phone.sim.ledger.sends] == [
        str(first["id"]),
        str(second["id"]),
    ]


async def test_after_an_outage_of_the_platform_the_outbox_drains_in_order(
    any_phone: Line, database: DatabaseServer
) -> None:
    """Agents go on answering in several conversations meanwhile. Then each message goes out once, unflagged,
    and each conversation's in the order in which they were written."""
    books = await books_of(any_phone.business, any_phone.sim, any_phone.channel_id, database)
    conversations = [await any_phone.opened() for _ in range(4)]
    any_phone.sim.go_down(600)
    written: dict[str, list[str]] = {}
    for number in range(6):
        for conversation in conversations:
            message = await any_phone.agent.say(conversation["id"], f"Number {number}")
            books.note(message)
            written.setdefault(str(conversation["id"]), []).append(str(message["id"]))
    any_phone.sim.come_up()
    await books.settle()
    await books.check()
    order = [send.callback_data for send in any_phone.sim.ledger.sends]
    assert len(order) == len(set(order)) == 24
    for ids in written.values():
        assert [one for one in order if one in ids] == ids
    any_phone.server.no_tracebacks()


async def test_a_send_that_the_platform_refuses_for_good_is_shown_with_its_code(any_phone: Line) -> None:
    """failed, the platform's code, a sentence, and the next message of the conversation goes out."""
    conversation = await any_phone.opened()
    any_phone.sim.fault(Fault(kind="error", code=131051, status=400, times=1))
    bad = await any_phone.agent.say(conversation["id"], "Not like this")
    good = await any_phone.agent.say(conversation["id"], "But like this")
    failed = await any_phone.agent.reaches(bad, "failed")
    assert failed["error"]["platform_code"] == "131051"
    assert (failed["error"]["retryable"], bool(failed["error"]["message"])) == (False, True)
    await any_phone.agent.reaches(good, "read")


async def test_an_expired_token_parks_the_outbox_until_there_is_a_new_one(any_phone: Line) -> None:
    """needs_attention with a sentence and a log line; nothing fails; new credentials send what waited."""
    server = any_phone.server
    conversation = await any_phone.opened()
    expired = any_phone.sim.fault(Fault(kind="error", code=190, status=401))
    sent = [await any_phone.agent.say(conversation["id"], f"Patience {n}") for n in range(3)]
    path = f"channels/{any_phone.channel_id}"

    async def attention() -> Json | None:
        channel: Json = await any_phone.agent.get(path)
        return channel if channel["status"] == "needs_attention" else None

    channel = await until("the channel needs attention", attention)
    assert channel["status_note"]

    async def told() -> bool:
        return any(
            one["level"] in ("warning", "error") and one.get("channel") == any_phone.channel_id
            for one in server.log_lines()
        )

    await until("an operator sees it in the log", told)
    await any_phone.opened("Customers are heard meanwhile")
    for message in sent:
        now = await any_phone.agent.message(conversation["id"], message["id"])
        assert now["status"] == "pending"
    any_phone.sim.clear_faults(expired)
    await any_phone.agent.put(path, {"credentials": {"access_token": any_phone.account.access_token}})
    for message in sent:
        await any_phone.agent.reaches(message, "read")
        any_phone.payload_of(message)
    assert (await any_phone.agent.get(path))["status"] == "active"


def _ms(rfc3339: str) -> int:
    return round(datetime.fromisoformat(rfc3339).timestamp() * 1000)
