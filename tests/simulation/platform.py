"""The platforms as a model: what becomes of the calls that the real senders make, without a network.

They take, decline, lose and hang by the seed, each in its own words (`lines.Voice`), and each call is kept,
because most promises about sending can only be judged from this side: what was sent twice, in which order,
how fast, and after which answer.
"""

from collections import Counter, defaultdict
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import httpx
import trio
from msgspec import Struct

from engine.domain.outbound import OutboxItem
from tests.simulation.lines import Line, Refusal

if TYPE_CHECKING:
    from adapters.port import Account, Fitted, Limits, Sender, SendResult, Turn
    from engine.domain.outbound import Send
    from tests.simulation.process import Process
    from tests.simulation.world import World

KNOWN_SECONDS_MAX = 5.0
"""How long the news of a status may be on its way from the database to the channel's actor."""

RESEND_SECONDS_MIN = 8.0
"""What the simulated programs wait for the platform's word (`outbound_unknown_wait_seconds`)."""

_REFUSED_BY_CHANCE = {
    "send_throttled": ("throttled", (0.0, 5.0, 30.0, 120.0)),
    "send_pair_limited": ("pair_limited", (0.0,)),
    "send_error": ("declined", (0.0, 0.0, 20.0)),
    "send_refused": ("refused", (0.0,)),
}
"""What the call's outcome is called, and which pauses the platform asks for."""

_sending: ContextVar[OutboxItem] = ContextVar("sending")


class Known:
    """A real sender; which of its items a request is for is noted beside it, since not every platform is told
    our ids."""

    def __init__(self, sender: "Sender") -> None:
        self._sender = sender
        self.platform = sender.platform

    def fit(self, send: "Send") -> "Fitted":
        return self._sender.fit(send)

    def limits(self, account: "Account") -> "Limits":
        return self._sender.limits(account)

    async def send(self, item: OutboxItem, account: "Account", turn: "Turn") -> "SendResult":
        _sending.set(item)
        return await self._sender.send(item, account, turn)


class Call(Struct, kw_only=True):
    """One request to send a message. `outcome`: unknown until it was answered; `heard`: the answer reached
    the process while it lived."""

    message_id: int
    process: int
    at: float
    outcome: str = "unknown"
    taken_as: str | None = None
    heard_at: float | None = None
    retry_after: float = 0.0
    jumps: int = 0


class Pause(Struct):
    """After a 429: from when until when, and how many calls were under way and may still come."""

    since: float
    until: float
    grace: int


class Platform:
    def __init__(self, world: "World") -> None:
        self.world = world
        self.calls: dict[int, list[Call]] = defaultdict(list)
        self.taken: list[Call] = []
        self.failed: set[str] = set()
        self._arrivals: dict[tuple[int, str], list[float]] = defaultdict(list)
        self._pauses: dict[tuple[int, str], Pause] = {}
        self._unauthorized: Counter[tuple[int, str, int]] = Counter()
        self._number = 0

    def transport(self, process: "Process") -> httpx.AsyncBaseTransport:
        return _Transport(self, process)

    async def answer(self, request: httpx.Request, process: "Process") -> httpx.Response:
        """One request, from its arrival to its answer. Raises httpx's errors for what a network does."""
        world, chance = self.world, self.world.chance
        await request.aread()
        line = world.line_of_host(request.url.host)
        if not line.voice.is_message(request):
            world.record.add("call", line.number, request.method, request.url.path, request.content)
            await trio.sleep(chance.uniform("signal", 0.0, 0.2))
            return await self._answered(line, request, process)
        item = _sending.get()
        assert item.message_id is not None
        call = Call(
            message_id=item.message_id,
            process=process.number,
            at=trio.current_time(),
            jumps=world.jumps,
        )
        self._judge(call, line, request, process)
        self.calls[call.message_id].append(call)
        world.tell(
            "platform", f"is asked by process {process.number} to send {call.message_id}", call.message_id
        )
        world.record.add("send", line.number, request.content)
        await trio.sleep(chance.uniform("send", 0.02, 0.4))
        response = await self._fate(call, line, request)
        call.heard_at = trio.current_time()
        if call.outcome == "throttled":
            self._pauses[process.number, line.number] = Pause(
                call.heard_at, call.heard_at + call.retry_after, process.in_hand(line)
            )
        world.tell("platform", f"answers {call.outcome} for {call.message_id}", call.message_id)
        return response

    async def _answered(self, line: Line, request: httpx.Request, process: "Process") -> httpx.Response:
        """A call that sends nothing: renewals, lists, read marks."""
        chance = self.world.chance
        if chance.strikes("call_failed"):
            return httpx.Response(503, content=b"<html>Later</html>")
        response: httpx.Response = line.voice.other(request)
        lost = chance.strikes("call_answer_lost")
        if line.voice.renews(request) and response.status_code == 200:
            self.world.tell("platform", f"gives new credentials for {line.number}")
            line.renewed_by.append(process)
            line.cut_off += lost
        if lost:
            raise httpx.ReadError("the answer was lost", request=request)
        return response

    async def _fate(self, call: Call, line: Line, request: httpx.Request) -> httpx.Response:
        chance, voice = self.world.chance, line.voice
        unheld: httpx.Response | None = voice.holds(request)
        if unheld is not None:
            call.outcome = "unauthorized"
            place = (call.process, line.number, line.tokens)
            self._unauthorized[place] += 1
            if self._unauthorized[place] > voice.concurrency + 8:
                self.world.violate(
                    "pace", f"{line.number} is called on and on with refused credentials", call.message_id
                )
            return unheld
        for kind, (outcome, pauses) in _REFUSED_BY_CHANCE.items():
            if kind in voice.faults and chance.strikes(kind):
                call.outcome = outcome
                call.retry_after = chance.stream(kind).choice(pauses)
                refused: httpx.Response = voice.refusal(kind, call.retry_after)
                return refused
        if chance.strikes("send_gateway_error"):
            # Something in front of the platform answers; nobody knows what is behind it.
            if chance.stream("send_gateway_error").random() < 0.5:
                self._take(call, line, request)
            await trio.sleep(chance.uniform("send_gateway_error", 0.0, 0.5))
            return httpx.Response(502, content=b"<html>Bad gateway</html>")
        if chance.strikes("send_hung"):
            if chance.stream("send_hung").random() < 0.5:
                self._take(call, line, request)
            await trio.sleep(3_600)
        response = self._take(call, line, request)
        if chance.strikes("send_answer_lost"):
            raise httpx.ReadError("the answer was lost", request=request)
        await trio.sleep(chance.uniform("send", 0.0, 0.4))
        if call.outcome == "unknown":
            call.outcome = "accepted"
        return response

    def _take(self, call: Call, line: Line, request: httpx.Request) -> httpx.Response:
        """It has its effect, unless the platform's own rules forbid it."""
        taken = line.voice.take(call, request)
        if isinstance(taken, Refusal) and taken.rule == "known":
            # It has the message from an earlier call, and says so.
            call.outcome = "accepted"
        elif isinstance(taken, Refusal):
            call.outcome = "refused"
            self._judge_refusal(call, line, taken.rule)
        else:
            call.taken_as = taken.platform_id
            self.taken.append(call)
            self.world.tell(
                "platform",
                f"takes {call.message_id} as {call.taken_as}",
                call.message_id,
                call.taken_as,
            )
        answer: httpx.Response = taken.answer
        return answer

    # ---------------------------------------------------------------- what must hold at each call

    def _judge(self, call: Call, line: Line, request: httpx.Request, process: "Process") -> None:
        world, now = self.world, trio.current_time()
        about = (call.message_id,)
        row = world.store.row(line.tenant_id, "messages", call.message_id)
        if row is None or row.channel_id != line.channel_id:
            world.violate("isolation", f"{call.message_id} is sent on {line.number}, whose it is not", *about)
            return
        if world.marker(line.tenant_id) not in line.voice.words(request):
            world.violate("isolation", f"{call.message_id} has another tenant's words", *about)
        item = world.store.row(line.tenant_id, "outbox", call.message_id)
        node = f"n{process.number}"
        taken_over = world.databases[line.tenant_id].owners[line.tenant_id].node != node
        waited_for = taken_over and world.commits.is_sent_by(call.message_id, node)
        if item is None or (item.state in ("queued", "unknown") and not waited_for):
            state = "nowhere" if item is None else item.state
            world.violate("outbox", f"{call.message_id} goes out and its row is {state}", *about)
        self._judge_consent(call, row)
        self._judge_pace(line, process, now, about)
        before = self.calls[call.message_id]
        if before and call.message_id not in world.retried:
            self._judge_repetition(call, before, row, process)
        if not any(one.taken_as for one in before) and call.message_id not in world.retried:
            later = [
                one.message_id
                for one in self.taken
                if world.written[one.message_id] > world.written[call.message_id]
                and one.message_id not in world.retried
                and world.place_of_message(one.message_id) == world.place_of_message(call.message_id)
            ]
            if later:
                world.violate("outbox", f"{call.message_id} goes out after {later[0]}", *about, later[0])

    def _judge_consent(self, call: Call, row: Any) -> None:
        """Only what was written down as being sent before an opt-out was stored may still go out after it."""
        world, number = self.world, call.message_id
        opted_out = world.opted_out.get((row.tenant_id, row.channel_id, row.contact_key))
        if opted_out is not None and world.begun.get(number, 0) > opted_out:
            world.violate("consent", f"{number} goes out to who has opted out", number)

    def _judge_refusal(self, call: Call, line: Line, rule: str) -> None:
        """What the engine could know beforehand is no reason to be refused for."""
        world, number = self.world, call.message_id
        row = world.store.row(line.tenant_id, "messages", number)
        if rule == "other":
            world.violate("platform", f"{number} is refused by {line.platform} as it is", number)
        if rule == "used_up" and not world.jumps and not self._taken_unheard(row):
            world.violate("window", f"{number} is one more than the window takes", number)
        if rule == "window" and not world.jumps and number not in world.retried:
            ended = line.voice.window_ended_at(row.contact_key)
            if row.created_at > ended:
                late = (row.created_at - ended) / 1000
                world.violate("window", f"{number} was written {late:.1f} s after the window's end", number)

    def _taken_unheard(self, row: Any) -> bool:
        """Whether the platform may have more of this conversation than we know."""
        world = self.world
        return any(
            one.outcome == "unknown" or one.heard_at is None
            for number, calls in self.calls.items()
            if world.place_of_message(number) == (row.tenant_id, row.channel_id, row.contact_key)
            for one in calls
            if one.message_id != row.id or one is not calls[-1]
        )

    def _judge_pace(self, line: Line, process: "Process", now: float, about: tuple[int, ...]) -> None:
        place = (process.number, line.number)
        arrivals = self._arrivals[place]
        arrivals.append(now)
        recent = [at for at in arrivals if at > now - 1.0]
        self._arrivals[place] = recent
        calls_max = line.voice.per_second + line.voice.concurrency
        # What was in hand goes out when its commit comes, so a burst of that is lawful after a slow one.
        if len(recent) > calls_max and now - process.worker_crashed_at > 2.0:
            self.world.violate("pace", f"{len(recent)} calls of {line.number} within a second", *about)
        pause = self._pauses.get(place)
        if pause is not None and now < pause.until - 0.001 and process.worker_crashed_at < pause.since:
            pause.grace -= 1
            if pause.grace < 0:
                self.world.violate("pace", f"{line.number} is called before its Retry-After", *about)

    def _judge_repetition(self, call: Call, before: list[Call], row: Any, process: "Process") -> None:
        world, last, about = self.world, before[-1], (call.message_id,)
        waited = call.at - last.at
        unknown = [one for one in before if one.outcome == "unknown" or one.heard_at is None]
        if unknown and not row.metadata.get("resent"):
            world.violate("outbox", f"{call.message_id} is sent again without a word", *about)
        if last in unknown and waited < RESEND_SECONDS_MIN - 0.01:
            world.violate(
                "outbox", f"{call.message_id} is sent again {waited:.3f} s after an unknown outcome", *about
            )
        known_for = call.at - world.decided.get(call.message_id, call.at)
        if known_for > KNOWN_SECONDS_MAX and not world.reached.away:
            world.violate(
                "outbox",
                f"{call.message_id} is sent again {known_for:.3f} s after a status decided it",
                *about,
            )
        if last.outcome == "accepted" and last.process == call.process and last.heard_at is not None:
            world.violate("outbox", f"{call.message_id} is sent again after it was accepted", *about)
        if last.heard_at is None or last.jumps != world.jumps:
            return
        if last.process != call.process or process.worker_crashed_at >= last.heard_at:
            # Whoever heard the answer may have died before it was written down.
            return
        least = {"throttled": 1.0, "declined": 1.0, "pair_limited": 4.0}.get(last.outcome, 0.0)
        least = max(least, last.retry_after)
        if call.at - last.heard_at < least - 0.01:
            world.violate(
                "pace",
                f"{call.message_id} is tried again {call.at - last.heard_at:.3f} s after {last.outcome}, "
                f"not after {least} s",
                *about,
            )


class _Transport(httpx.AsyncBaseTransport):
    """The network between one process and the platform."""

    def __init__(self, platform: Platform, process: "Process") -> None:
        self._platform = platform
        self._process = process

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        chance = self._platform.world.chance
        if self._process.dead:
            await trio.sleep_forever()
        if chance.strikes("send_unreachable"):
            await trio.sleep(chance.uniform("send_unreachable", 0.0, 1.0))
            raise httpx.ConnectError("no route", request=request)
        # The steps of a request that httpcore tells of and the sender waits for.
        trace = request.extensions.get("trace")
        if trace is not None:
            await trace("http11.send_request_headers.started", {})
            await trace("http11.send_request_body.complete", {})
        return await self._platform.answer(request, self._process)
