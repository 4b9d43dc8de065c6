"""The platform as a model: the Graph API that the real sender calls, without a network, and what it reports.

It takes, declines, loses and hangs by the seed, and keeps each call, because most promises about sending can
only be judged from this side: what was sent twice, in which order, how fast, and after which answer.
"""

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import trio
from msgspec import Struct

from adapters.simulators import builders
from adapters.simulators.accounts import WhatsAppAccount
from adapters.simulators.graph_errors import GraphError, webhook_error
from tests.simulation.mail import Item

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

KNOWN_SECONDS_MAX = 5.0
"""How long the news of a status may be on its way from the database to the channel's actor."""

RESEND_SECONDS_MIN = 8.0
"""What the simulated programs wait for the platform's word (`outbound_unknown_wait_seconds`)."""


class Line(Struct, kw_only=True):
    """A connected number: who has it, and how the platform knows it."""

    tenant_id: int
    channel_id: int
    account: WhatsAppAccount
    endpoint_key: str
    messages_per_second: int
    concurrency: int
    tokens: int = 0

    @property
    def token(self) -> str:
        return f"{self.account.access_token}-{self.tokens}"

    @property
    def number(self) -> str:
        return self.account.phone_number_id


class Call(Struct, kw_only=True):
    """One request to send a message. `outcome`: unknown until it was answered; `heard`: the answer reached
    the process while it lived."""

    message_id: int
    recipient: str
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
        body = msgspec.json.decode(await request.aread())
        line = world.line_of_number(request.url.path.split("/")[2])
        if body.get("status") == "read":
            world.record.add("signal", line.number, body)
            await trio.sleep(chance.uniform("signal", 0.0, 0.2))
            return _json(200, {"success": True})
        call = Call(
            message_id=int(body["biz_opaque_callback_data"]),
            recipient=body.get("to") or body.get("recipient") or "",
            process=process.number,
            at=trio.current_time(),
            jumps=world.jumps,
        )
        self._judge(call, line, body, request, process)
        self.calls[call.message_id].append(call)
        world.tell(
            "platform", f"is asked by process {process.number} to send {call.message_id}", call.message_id
        )
        world.record.add("send", line.number, body)
        await trio.sleep(chance.uniform("send", 0.02, 0.4))
        response = await self._fate(call, line, request)
        call.heard_at = trio.current_time()
        if call.outcome == "throttled":
            self._pauses[process.number, line.number] = Pause(
                call.heard_at, call.heard_at + call.retry_after, process.in_hand(line)
            )
        world.tell("platform", f"answers {call.outcome} for {call.message_id}", call.message_id)
        return response

    async def _fate(self, call: Call, line: Line, request: httpx.Request) -> httpx.Response:
        chance = self.world.chance
        if request.headers.get("authorization") != f"Bearer {line.token}":
            call.outcome = "unauthorized"
            self._unauthorized[call.process, line.number, line.tokens] += 1
            if self._unauthorized[call.process, line.number, line.tokens] > line.concurrency + 8:
                self.world.violate(
                    "pace", f"{line.number} is called on and on with refused credentials", call.message_id
                )
            return _refused(GraphError(190, "The access token is not valid."))
        if chance.strikes("send_throttled"):
            call.outcome = "throttled"
            call.retry_after = chance.stream("send_throttled").choice((0.0, 5.0, 30.0, 120.0))
            return _refused(GraphError(130429, "Too fast."), call.retry_after)
        if chance.strikes("send_pair_limited"):
            call.outcome = "pair_limited"
            return _refused(GraphError(131056, "Too much for this person."))
        if chance.strikes("send_error"):
            call.outcome = "declined"
            call.retry_after = chance.stream("send_error").choice((0.0, 0.0, 20.0))
            return _refused(GraphError(131016, "Later."), call.retry_after)
        if chance.strikes("send_refused"):
            call.outcome = "refused"
            return _refused(GraphError(131026, "Cannot be delivered."))
        if chance.strikes("send_gateway_error"):
            # Something in front of the platform answers; nobody knows what is behind it.
            if chance.stream("send_gateway_error").random() < 0.5:
                self._take(call, line)
            await trio.sleep(chance.uniform("send_gateway_error", 0.0, 0.5))
            return httpx.Response(502, content=b"<html>Bad gateway</html>")
        if chance.strikes("send_hung"):
            if chance.stream("send_hung").random() < 0.5:
                self._take(call, line)
            await trio.sleep(3_600)
        self._take(call, line)
        if chance.strikes("send_answer_lost"):
            raise httpx.ReadError("the answer was lost", request=request)
        await trio.sleep(chance.uniform("send", 0.0, 0.4))
        call.outcome = "accepted"
        return _json(200, {"messaging_product": "whatsapp", "messages": [{"id": call.taken_as}]})

    # ---------------------------------------------------------------- what must hold at each call

    def _judge(
        self, call: Call, line: Line, body: dict[str, Any], request: httpx.Request, process: "Process"
    ) -> None:
        world, now = self.world, trio.current_time()
        about = (call.message_id,)
        row = world.store.row(line.tenant_id, "messages", call.message_id)
        if row is None or row.channel_id != line.channel_id:
            world.violate("isolation", f"{call.message_id} is sent on {line.number}, whose it is not", *about)
            return
        if world.marker(line.tenant_id) not in msgspec.json.encode(body).decode():
            world.violate("isolation", f"{call.message_id} has another tenant's words", *about)
        item = world.store.row(line.tenant_id, "outbox", call.message_id)
        if item is None or item.state in ("queued", "unknown"):
            state = "nowhere" if item is None else item.state
            world.violate("outbox", f"{call.message_id} goes out and its row is {state}", *about)
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

    def _judge_pace(self, line: Line, process: "Process", now: float, about: tuple[int, ...]) -> None:
        place = (process.number, line.number)
        arrivals = self._arrivals[place]
        arrivals.append(now)
        recent = [at for at in arrivals if at > now - 1.0]
        self._arrivals[place] = recent
        calls_max = line.messages_per_second + line.concurrency
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

    # ---------------------------------------------------------------- taken, and what becomes of it

    def _take(self, call: Call, line: Line) -> None:
        self._number += 1
        call.taken_as = f"wamid.out{self._number}"
        self.taken.append(call)
        world, random = self.world, self.world.chance.stream("statuses")
        world.tell("platform", f"takes {call.message_id} as {call.taken_as}", call.message_id, call.taken_as)
        kinds = random.choice((["sent"], ["sent", "delivered"], ["sent", "delivered", "read"], ["read"]))
        if world.chance.strikes("delivery_failed"):
            kinds = ["sent", "failed"]
            self.failed.add(call.taken_as)
        recipient = call.recipient.removeprefix("+")
        if not recipient.isdigit():
            recipient = world.person_by_key(line, recipient).wa_id
        if world.callbacks and random.random() < 0.1:
            recipient = "1999" + recipient[-4:]  # by a number that nobody has heard of
        for kind in kinds:
            at = world.platform_seconds()
            error = webhook_error(131049, "Not today.") if kind == "failed" else None
            change = builders.change(
                builders.value(
                    line.account,
                    statuses=[
                        builders.status(
                            call.taken_as,
                            kind,
                            at,
                            recipient,
                            callback_data=str(call.message_id) if world.callbacks else None,
                            error=error,
                        )
                    ],
                )
            )
            item = Item(
                line=line,
                kind="status",
                platform_id=call.taken_as,
                change=change,
                person=None,
                status=kind,
                message_id=call.message_id if world.callbacks else None,
            )
            late = random.choice((5.0, 25.0)) if kind == "failed" else 5.0
            world.mail.send(item, within=late)


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
        trace = request.extensions["trace"]
        await trace("http11.send_request_headers.started", {})
        await trace("http11.send_request_body.complete", {})
        return await self._platform.answer(request, self._process)


def _json(status: int, body: Any) -> httpx.Response:
    return httpx.Response(status, content=msgspec.json.encode(body))


def _refused(error: GraphError, retry_after: float = 0.0) -> httpx.Response:
    answer = error.response("trace", retry_after_seconds=retry_after or None)
    return httpx.Response(answer.status, content=answer.body, headers=dict(answer.headers))
