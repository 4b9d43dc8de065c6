"""Customers who write and agents who answer while something breaks, with every promise written down."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import httpx
import trio

from adapters.simulators.talk import Talk
from tests.fixtures.system import Json, Line, send_bytes
from tests.patience import PATIENCE_SECONDS
from tests.plain import PLAIN

WEIGHTS = {"text": 70.0, "image": 4.0, "reaction": 6.0, "edit": 6.0, "revoke": 4.0, "location": 10.0}
"""Without numbers that change: who is who would then depend on what was heard."""


class Load:
    """What the agents were answered. `errors`: answers from 500 on, which an ordered stop must not give."""

    def __init__(self) -> None:
        self.accepted = 0
        self.errors: list[tuple[int, str]] = []
        self.unanswered = 0
        self.over = False


@asynccontextmanager
async def load(
    line: Line, note: Callable[[Json], None], *, messages_per_second: float = 25.0, customers: int = 12
) -> AsyncIterator[Load]:
    """Runs within the block. Connections that break and refusals are counted and lived with, as clients do;
    who gets no answer to a send repeats it with the same client_key. `note` is told each answer of 201."""
    line.sim.start_talking(
        Talk(
            customers=customers,
            messages_per_second=messages_per_second,
            answer_probability=0.2,
            answer_seconds=(0.05, 0.3),
            weights=WEIGHTS,
        )
    )
    seen = Load()
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(_answer, line, note, seen, Random(number), number)
        yield seen
        line.sim.stop_talking()
        # Not cancelled: httpx leaves a cancelled call's body to the garbage collector, which warns.
        seen.over = True


async def _answer(line: Line, note: Callable[[Json], None], seen: Load, random: Random, number: int) -> None:
    """Takes any conversation and writes something, until it is over."""
    limits = httpx.Limits(max_keepalive_connections=0)  # a kept connection may be closed at any time
    key = 0
    async with httpx.AsyncClient(
        base_url=f"{line.server.base_url}/api/{line.business.slug}/",
        headers={"Authorization": f"Bearer {line.business.token}"},
        timeout=PATIENCE_SECONDS,
        limits=limits,
        **PLAIN,
    ) as agent:
        while not seen.over:
            found = await _call(seen, agent, "GET", f"conversations?limit=50&channel_id={line.channel_id}")
            if found is None or not found["items"]:
                await trio.sleep(0.1)
                continue
            conversation = random.choice(found["items"])
            key += 1
            body = {"type": "text", "content": f"Answer {key}", "client_key": f"{number}/{key}"}
            message = None
            while message is None and not seen.over:
                message = await _call(
                    seen, agent, "POST", f"conversations/{conversation['id']}/messages", body
                )
                if message is None:
                    await trio.sleep(0.1)
            if message is not None:
                note(message)
                seen.accepted += 1
            await trio.sleep(0.05)


async def _call(
    seen: Load, agent: httpx.AsyncClient, method: str, path: str, body: Json | None = None
) -> Json | None:
    """The data of a success; None when there is no server or it asks to come again."""
    try:
        answer = await send_bytes(agent, agent.build_request(method, path, json=body))
    except httpx.TransportError:
        seen.unanswered += 1
        return None
    if answer.status_code >= 500:
        seen.errors.append((answer.status_code, answer.text[:200]))
        return None
    assert answer.is_success, answer.text
    data: Json = answer.json()["data"]
    return data
