"""Who looks at a conversation and who types there: told to those who are there, never stored.

Owns       rooms (a presence channel of a tenant with somebody in it) and who is in them.
Promises   whoever enters is told everybody who is there, once; afterwards each change. A person with several
           windows is there once. Who is lost without a word is told as gone after `GRACE_SECONDS`, so that a
           reconnect is no news; who stops typing without a word types no more after `TYPING_SECONDS`.
Limits     a room tells its changes together, at most once per window, and the window grows with the number
           of those who are told (`WINDOW_SECONDS_PER_VISIT`): 200 agents in one conversation cost 200 frames
           per second for each kind of change and no more, whatever they do. `ROOM_MAX` visits to a room.
Restart    nothing is kept: who comes back enters again.

Protocols differ in what they send, so a room asks each protocol's `Voice` for frames once per change and
hands the same objects to all visits that speak it.
"""

from collections.abc import Callable, Collection, Sequence
from heapq import heappop, heappush
from typing import Final, Protocol

import msgspec
import trio
from msgspec import Struct

from gateway.push.connection import Outlet

WINDOW_SECONDS: Final = 0.25
"""Nobody notices that a colleague's name comes a quarter of a second later."""

WINDOW_SECONDS_PER_VISIT: Final = 0.005
GRACE_SECONDS: Final = 3.0
"""A changed network or a restarted server brings everybody back within about two seconds."""

TYPING_SECONDS: Final = 6.0
"""Clients repeat `typing` every few seconds while somebody types."""

TYPING_AGAIN_SECONDS: Final = 1.0
"""Pusher's clients have no word for "has stopped": they forget a typist who is not named again."""

TYPISTS_TOLD_MAX: Final = 5
"""At a time; with more, a screen says "several people are typing" anyway."""

ROOM_MAX: Final = 1_000


class Member(Struct, frozen=True, kw_only=True):
    """`id` is what makes it one person, within the channel. `info` is JSON for the others to show."""

    id: str
    info: msgspec.Raw


class Typist(Struct, frozen=True, kw_only=True):
    """`said`: JSON that came with it, if the protocol has that."""

    member: Member
    said: bytes | None


class Voice(Protocol):
    """A protocol's frames about a room. Pure; equal for every visit of the room."""

    @property
    def protocol(self) -> str: ...

    def entered(self, channel: str, present: Sequence[Member]) -> bytes:
        """To whoever has just come: all who are there."""
        ...

    def changed(self, channel: str, joined: Sequence[Member], left: Sequence[Member]) -> Sequence[bytes]: ...

    def typing(
        self, channel: str, typists: Sequence[Typist], again: bool
    ) -> Sequence[tuple[bytes, str | None]]:
        """Who types now: frames, each with the member that is not to get it. `again`: the same as before, and
        they still do."""
        ...


class Visit:
    """One connection in a room. Ended by `Presence.leave`."""

    __slots__ = ("greeted", "member", "outlet", "room", "voice")

    def __init__(self, room: "_Room", member: Member, outlet: Outlet, voice: Voice) -> None:
        self.room = room
        self.member = member
        self.outlet = outlet
        self.voice = voice
        self.greeted = False


class _Room:
    __slots__ = (
        "channel",
        "due",
        "flushed_at",
        "key",
        "leaving",
        "present",
        "said",
        "told",
        "typing",
        "typing_heard",
        "typing_said_at",
        "typing_told",
        "visits",
    )

    def __init__(self, key: tuple[int, str]) -> None:
        self.key = key
        self.channel = key[1]
        self.visits: dict[Visit, None] = {}
        self.present: dict[str, int] = {}  # member id to its number of visits
        self.told: dict[str, Member] = {}  # who is there, as all have been told
        self.leaving: dict[str, float] = {}  # lost without a word: until then they may be back
        self.typing: dict[str, float] = {}  # until when
        self.said: dict[str, bytes | None] = {}
        self.typing_heard = False  # again, since it was told
        self.typing_said_at = float("-inf")
        self.typing_told: tuple[str, ...] = ()
        self.flushed_at = float("-inf")
        self.due = float("inf")

    def window(self) -> float:
        return max(WINDOW_SECONDS, WINDOW_SECONDS_PER_VISIT * len(self.visits))


class Presence:
    """All methods belong to the trio thread. `run` must be running for anything to expire."""

    def __init__(self) -> None:
        self._rooms: dict[tuple[int, str], _Room] = {}
        self._dues: list[tuple[float, int, _Room]] = []  # a heap; entries that are no longer true are skipped
        self._number = 0
        self._sooner = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        task_status.started()
        while True:
            self._sooner = trio.Event()
            with trio.move_on_at(self._dues[0][0] if self._dues else float("inf")):
                await self._sooner.wait()
            while self._dues and self._dues[0][0] <= trio.current_time():
                due, _, room = heappop(self._dues)
                if room.due == due:
                    self._flush(room)

    def enter(
        self, tenant_id: int, channel: str, member: Member, outlet: Outlet, voice: Voice
    ) -> Visit | None:
        """The outlet is told who is there, now or at the end of the window. None: the room is full."""
        key = (tenant_id, channel)
        room = self._rooms.get(key)
        if room is None:
            room = self._rooms[key] = _Room(key)
        if len(room.visits) >= ROOM_MAX:
            return None
        visit = Visit(room, member, outlet, voice)
        room.visits[visit] = None
        room.present[member.id] = room.present.get(member.id, 0) + 1
        room.leaving.pop(member.id, None)
        self._changed(room)
        return visit

    def leave(self, visit: Visit, *, lost: bool = False) -> None:
        """`lost`: without a word, so perhaps only for a moment. Idempotent."""
        room = visit.room
        if visit not in room.visits:
            return
        del room.visits[visit]
        member_id = visit.member.id
        room.present[member_id] -= 1
        if not room.present[member_id]:
            del room.present[member_id]
            room.typing.pop(member_id, None)
            if lost:
                room.leaving[member_id] = trio.current_time() + GRACE_SECONDS
                self._plan(room)
            else:
                self._changed(room)
        if not room.visits:
            # Nobody is left to be told anything.
            self._rooms.pop(room.key, None)

    def typing(self, visit: Visit, state: bool, said: bytes | None = None) -> None:
        """The visitor types, or has stopped."""
        room, member_id = visit.room, visit.member.id
        if visit not in room.visits:
            return
        if state:
            room.typing[member_id] = trio.current_time() + TYPING_SECONDS
            room.said[member_id] = said
            room.typing_heard = True
        elif room.typing.pop(member_id, None) is None:
            return
        self._changed(room)

    def present(self, tenant_id: int, channel: str) -> list[str]:
        """The ids of those who are there, first come first."""
        room = self._rooms.get((tenant_id, channel))
        return list(room.present) if room else []

    def __len__(self) -> int:
        return len(self._rooms)

    # -------------------------------------------------------------- telling

    def _changed(self, room: _Room) -> None:
        """Tells at once what comes after a pause, and together what follows within the window."""
        now = trio.current_time()
        if now >= room.flushed_at + room.window():
            self._flush(room)
        else:
            self._plan(room, room.flushed_at + room.window())

    def _plan(self, room: _Room, due: float = float("inf")) -> None:
        due = min((due, *room.leaving.values(), *room.typing.values()))
        if due >= room.due:
            return
        room.due = due
        self._number += 1
        heappush(self._dues, (due, self._number, room))
        if self._dues[0][2] is room:
            self._sooner.set()

    def _flush(self, room: _Room) -> None:
        now = trio.current_time()
        room.flushed_at = now
        room.due = float("inf")
        room.leaving = {member_id: end for member_id, end in room.leaving.items() if end > now}
        here = {visit.member.id: visit.member for visit in reversed(room.visits)}
        here = {member_id: here[member_id] for member_id in room.present}
        kept = {member_id: room.told[member_id] for member_id in room.leaving if member_id in room.told}
        joined = [member for member_id, member in here.items() if member_id not in room.told]
        left = [member for member_id, member in room.told.items() if member_id not in here | kept]
        room.told = kept | here
        if joined or left:
            self._tell(room, lambda voice: [(f, None) for f in voice.changed(room.channel, joined, left)])
        self._greet(room)
        again_at = self._tell_typing(room, here, now)
        if room.visits:
            self._plan(room, again_at)

    def _greet(self, room: _Room) -> None:
        frames: dict[str, bytes] = {}
        for visit in [visit for visit in room.visits if not visit.greeted]:
            visit.greeted = True
            voice = visit.voice
            if voice.protocol not in frames:
                frames[voice.protocol] = voice.entered(room.channel, list(room.told.values()))
            visit.outlet.offer(frames[voice.protocol])

    def _tell_typing(self, room: _Room, here: dict[str, Member], now: float) -> float:
        """Returns when the same is to be told again."""
        room.typing = {member_id: end for member_id, end in room.typing.items() if end > now}
        room.said = {member_id: room.said.get(member_id) for member_id in room.typing}
        latest = sorted(room.typing, key=lambda member_id: room.typing[member_id], reverse=True)
        typists = tuple(sorted(latest[:TYPISTS_TOLD_MAX]))
        again = typists == room.typing_told
        if again and not (room.typing_heard and typists):
            return float("inf")
        if again and now < room.typing_said_at + TYPING_AGAIN_SECONDS:
            return room.typing_said_at + TYPING_AGAIN_SECONDS
        room.typing_told, room.typing_heard, room.typing_said_at = typists, False, now
        members = [Typist(member=here[each], said=room.said.get(each)) for each in typists]
        self._tell(room, lambda voice: voice.typing(room.channel, members, again))
        return float("inf")

    def _tell(self, room: _Room, frames_of: Callable[[Voice], Collection[tuple[bytes, str | None]]]) -> None:
        spoken: dict[str, Collection[tuple[bytes, str | None]]] = {}
        # A copy: whoever overflows leaves from within the loop.
        for visit in [visit for visit in room.visits if visit.greeted]:
            voice = visit.voice
            if voice.protocol not in spoken:
                spoken[voice.protocol] = frames_of(voice)
            for frame, but in spoken[voice.protocol]:
                if visit.member.id != but:
                    visit.outlet.offer(frame)
