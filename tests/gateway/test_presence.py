"""Presence and typing under virtual time, in both protocols at once: who is told what, and how often."""

import msgspec
import pytest
import trio
import trio.testing

from gateway.push.presence import GRACE_SECONDS, TYPING_SECONDS, TYPISTS_TOLD_MAX, Member, Presence
from gateway.push.pusher.frames import PusherVoice
from tests.gateway.push_house import (
    AUTH,
    Client,
    House,
    Message,
    PusherClient,
    connected,
    entered,
)

CHANNEL = "presence-conversations.3"
SUBSCRIBE: Message = {"type": "subscribe", "channel": CHANNEL}
SEVEN = {"user_id": 7, "name": "Agent 7"}
EIGHT = {"user_id": 8, "name": "Agent 8"}


class Outlet:
    """Takes everything and counts it."""

    def __init__(self) -> None:
        self.frames: list[Message] = []

    def offer(self, frame: bytes) -> bool:
        self.frames.append(msgspec.json.decode(frame))
        return True

    def has_room(self) -> bool:
        return True

    async def wait_room(self) -> None:
        await trio.lowlevel.checkpoint()


def member(number: int) -> Member:
    return Member(id=str(number), info=msgspec.Raw(msgspec.json.encode({"user_id": number, "name": "x"})))


# ------------------------------------------------------------------ the native protocol


async def test_who_comes_is_told_who_is_there_and_the_others_who_came(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The whole once, then what changes; two windows of a person are one; leaving by word is told at once."""
    house = House()
    eight: Message = {**AUTH, "token": "2|good"}
    async with connected(house, eight, AUTH, AUTH) as (watcher, first, second):
        heard = await watcher.say(SUBSCRIBE)
        assert heard[-1] == {"type": "presence", "channel": CHANNEL, "users": [EIGHT]}
        heard = await first.say(SUBSCRIBE)
        await trio.sleep(1)
        assert first.taken()[-1:] == [{"type": "presence", "channel": CHANNEL, "users": [EIGHT, SEVEN]}]
        joined = {"type": "presence.changed", "channel": CHANNEL, "joined": [SEVEN], "left": []}
        assert watcher.taken() == [joined]
        await second.say(SUBSCRIBE)
        await first.say({"type": "unsubscribe", "channel": CHANNEL})
        await trio.sleep(1)
        assert watcher.taken() == []
        await second.say({"type": "unsubscribe", "channel": CHANNEL})
        await trio.sleep(1)
        left = {"type": "presence.changed", "channel": CHANNEL, "joined": [], "left": [7]}
        assert watcher.taken() == [left]
    assert house.log.events == []


async def test_who_is_lost_and_comes_back_is_no_news(autojump_clock: trio.testing.MockClock) -> None:
    """Within the time of grace nobody hears of it; after it, of the leaving."""
    house = House()
    async with connected(house, {**AUTH, "token": "2|good"}) as (watcher,):
        await watcher.say(SUBSCRIBE)
        lost, back = Client(house), Client(house)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lost.run)
            await lost.say(AUTH, SUBSCRIBE)
            await trio.sleep(1)
            assert [each["joined"] for each in watcher.taken()] == [[SEVEN]]
            lost.lose()
            await trio.sleep(GRACE_SECONDS / 2)
            nursery.start_soon(back.run)
            await back.say(AUTH, SUBSCRIBE)
            await trio.sleep(2 * GRACE_SECONDS)
            assert watcher.taken() == []
            back.lose()
            await trio.sleep(GRACE_SECONDS / 2)
            assert watcher.taken() == []
            await trio.sleep(GRACE_SECONDS)
            assert [each["left"] for each in watcher.taken()] == [[7]]


async def test_typing_is_told_and_ends_by_itself(autojump_clock: trio.testing.MockClock) -> None:
    """Once when it begins, however often it is said; once when it ends, by word or by silence."""
    house = House()
    typing: Message = {"type": "typing", "channel": CHANNEL}
    async with connected(house, AUTH, {**AUTH, "token": "2|good"}, AUTH) as (writer, other, elsewhere):
        await elsewhere.say({"type": "subscribe", "channel": "conversations.3"})
        (error,) = await writer.say(typing)
        assert error["code"] == "not_subscribed"
        for client in (writer, other):
            await client.say(SUBSCRIBE)
        await trio.sleep(1)
        other.taken()
        for _ in range(8):
            await writer.say(typing)
        await trio.sleep(1)
        assert other.taken() == [{"type": "typing", "channel": CHANNEL, "user_ids": [7]}]
        await trio.sleep(TYPING_SECONDS)
        assert other.taken() == [{"type": "typing", "channel": CHANNEL, "user_ids": []}]
        await writer.say(typing)
        await writer.say({**typing, "state": False})
        await trio.sleep(1)
        assert [each["user_ids"] for each in other.taken()] == [[7], []]
        assert elsewhere.taken() == []
    assert house.log.events == []


# ------------------------------------------------------------------ two protocols, one room


async def test_both_protocols_see_each_other(autojump_clock: trio.testing.MockClock) -> None:
    """A native client and one of Pusher's are in the same room, each told in its own words."""
    house = House()
    native, pusher = Client(house), PusherClient(house)
    async with entered(native, pusher):
        await native.say({**AUTH, "token": "2|good"}, SUBSCRIBE)
        native.taken()
        pusher.taken()
        await trio.sleep(1)
        (succeeded,) = await pusher.subscribe(CHANNEL)
        assert succeeded["data"]["presence"] == {
            "count": 2,
            "ids": ["8", "7"],
            "hash": {"8": EIGHT, "7": SEVEN},
        }
        await trio.sleep(1)
        assert [each["joined"] for each in native.taken()] == [[SEVEN]]

        whisper = {"event": "client-typing", "channel": CHANNEL, "data": {"name": "Noor"}}
        await pusher.say(whisper)
        assert [each["user_ids"] for each in native.taken()] == [[7]]
        assert pusher.taken() == []  # it knows
        await trio.sleep(2 * TYPING_SECONDS)
        native.taken()
        await native.say({"type": "typing", "channel": CHANNEL})
        heard = pusher.taken()
        assert heard == [{"event": "client-typing", "channel": CHANNEL, "data": EIGHT, "user_id": "8"}]

        await native.say({"type": "unsubscribe", "channel": CHANNEL})
        await trio.sleep(1)
        (removed,) = pusher.taken()
        assert (removed["event"], removed["data"]) == ("pusher_internal:member_removed", {"user_id": "8"})


# ------------------------------------------------------------------ what it costs


async def test_two_hundred_agents_who_all_come_back_cost_one_frame_each(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A server that restarts brings everybody back at once: each is told who is there, and nobody hears of
    each of the others one by one."""
    presence = Presence()
    outlets = [Outlet() for _ in range(200)]
    async with trio.open_nursery() as nursery:
        await nursery.start(presence.run)
        for number, outlet in enumerate(outlets):
            assert presence.enter(1, CHANNEL, member(number), outlet, PusherVoice())
            await trio.sleep(0.001)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    frames = sum(len(outlet.frames) for outlet in outlets)
    assert 200 <= frames <= 3 * 200  # one by one it would be twenty thousand
    people = msgspec.json.decode(outlets[-1].frames[0]["data"])["presence"]
    assert people["count"] == 200


async def test_two_hundred_agents_who_all_type_cost_little(autojump_clock: trio.testing.MockClock) -> None:
    """Each at ten keys per second for ten seconds: twenty thousand whispers to two hundred screens would be
    four million frames. The room names the latest few, about once a second."""
    presence = Presence()
    outlets = [Outlet() for _ in range(200)]
    async with trio.open_nursery() as nursery:
        await nursery.start(presence.run)
        visits = [
            presence.enter(1, CHANNEL, member(number), outlet, PusherVoice())
            for number, outlet in enumerate(outlets)
        ]
        await trio.sleep(5)
        before = sum(len(outlet.frames) for outlet in outlets)
        for _ in range(100):
            for visit in visits:
                assert visit is not None
                presence.typing(visit, True)
            await trio.sleep(0.1)
        frames = sum(len(outlet.frames) for outlet in outlets) - before
        nursery.cancel_scope.cancel()
    assert 0 < frames <= 200 * TYPISTS_TOLD_MAX * 12


@pytest.mark.parametrize("lost", [False, True])
async def test_an_empty_room_is_forgotten(lost: bool, autojump_clock: trio.testing.MockClock) -> None:
    """Also when its last visitor was lost without a word."""
    presence = Presence()
    async with trio.open_nursery() as nursery:
        await nursery.start(presence.run)
        visit = presence.enter(1, CHANNEL, member(7), Outlet(), PusherVoice())
        assert visit is not None
        assert presence.present(1, CHANNEL) == ["7"]
        presence.typing(visit, True)
        presence.leave(visit, lost=lost)
        presence.leave(visit)
        assert len(presence) == 0
        await trio.sleep(100)
        assert presence.present(1, CHANNEL) == []
        nursery.cancel_scope.cancel()


async def test_a_room_is_a_tenants(autojump_clock: trio.testing.MockClock) -> None:
    """The same channel of another tenant is another room."""
    presence = Presence()
    ours, theirs = Outlet(), Outlet()
    presence.enter(1, CHANNEL, member(7), ours, PusherVoice())
    presence.enter(2, CHANNEL, member(8), theirs, PusherVoice())
    assert (presence.present(1, CHANNEL), presence.present(2, CHANNEL)) == (["7"], ["8"])
    assert len(ours.frames) == len(theirs.frames) == 1
