"""Clients that stall, dribble or never read hold bounded memory, and nobody else waits for them."""

import os
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
import trio

from adapters.simulators import builders
from adapters.simulators.builders import Person
from gateway.push.session import SessionLimits
from tests.fixtures.system import Business, Line, screen, until
from tests.patience import PATIENCE_SECONDS
from tests.plain import PLAIN

HEADS = 150
BODIES = 150
SCREENS = 12
TEXT = "x" * 4000
"""Near the longest that WhatsApp lets through (4096 characters)."""
MESSAGES = 2000
"""Of such texts: 10 MB for each screen, which is more than its queue and the kernel (4 MB at most) hold."""
IN_ONE_WEBHOOK = 50

ALLOWED_BYTES = (
    # A queue, and as much in the writer's hands, for each screen; some KB for each request; and what ring,
    # conversations and allocator keep of the flood itself.
    SCREENS * 2 * SessionLimits().queue_bytes_max + (HEADS + BODIES) * 64 * 1024 + 64 * 1024 * 1024
)

HEAD = b"POST /api/webhooks/whatsapp HTTP/1.1\r\nHost: stalled\r\n"


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def stalled_requests(port: int) -> AsyncIterator[None]:
    """Half a head on some connections; on others a body of which a byte comes now and then."""
    async with AsyncExitStack() as streams, trio.open_nursery() as nursery:
        for number in range(HEADS + BODIES):
            stream = await streams.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
            if number < HEADS:
                await stream.send_all(HEAD + b"X-Half")
            else:
                await stream.send_all(HEAD + b"Content-Length: 1000000\r\n\r\n{")
                nursery.start_soon(dribble, stream)
        yield
        nursery.cancel_scope.cancel()


async def dribble(stream: trio.SocketStream) -> None:
    """Until the server has lost patience."""
    with suppress(trio.BrokenResourceError):
        while True:
            await trio.sleep(0.3)
            await stream.send_all(b" ")


async def screen_that_never_reads(business: Business) -> trio.SocketStream:
    """Logged in and listening, as raw bytes: a WebSocket library would read."""
    stream = await trio.open_tcp_stream("127.0.0.1", business.server.port)
    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
    await stream.send_all(
        b"GET /ws HTTP/1.1\r\nHost: stalled\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    said = b""
    while b"\r\n\r\n" not in said:
        said += await stream.receive_some()
    login = f'{{"type":"auth","token":"{business.token}","tenant":"{business.slug}"}}'
    for text in (login, '{"type":"subscribe","channel":"inbox"}'):
        # Masked with zeros: the bytes are then the text itself (RFC 6455, 5.3).
        size = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2, "big")
        await stream.send_all(b"\x81" + size + bytes(4) + text.encode())
    while b'"subscribed"' not in said:
        said += await stream.receive_some()
    return stream


async def push_connections(phone: Line) -> float:
    """How many sessions the server has."""
    async with httpx.AsyncClient(
        base_url=phone.server.operator_url, timeout=PATIENCE_SECONDS, **PLAIN
    ) as operator:
        shown = (await operator.get("/metrics")).text
    return float(re.search(r"^mijra_push_connections (\S+)$", shown, re.MULTILINE).group(1))  # type: ignore[union-attr]


async def flood(phone: Line) -> None:
    """Long texts of a few customers, many to a webhook."""
    people = [Person(name="Long", wa_id=phone.new_customer()) for _ in range(5)]
    for first in range(0, MESSAGES, IN_ONE_WEBHOOK):
        messages = [
            builders.text_message(people[n % 5], f"wamid.long{n}{people[0].wa_id}", 1_790_000_000, TEXT)
            for n in range(first, first + IN_ONE_WEBHOOK)
        ]
        value = builders.value(phone.account, people, messages=messages)
        body = builders.webhook_bytes(builders.merged([(phone.account.waba_id, builders.change(value))]))
        await phone.deliver(body)


@pytest.mark.slow
async def test_stalled_clients_hold_bounded_memory_and_nobody_up(any_phone: Line) -> None:
    """Hundreds of stalled requests, and screens that read nothing while megabytes are pushed: webhooks are
    answered, another screen hears everything, those that do not read are cut off, memory keeps its limits."""
    server, business = any_phone.server, any_phone.business
    before = resident_bytes(server.pid)
    async with stalled_requests(server.port), screen(business) as desk:
        stalled = [await screen_that_never_reads(business) for _ in range(SCREENS)]
        connections = await push_connections(any_phone)
        await flood(any_phone)

        async def all_pushed() -> bool:
            return len(desk.named("message.received")) >= MESSAGES

        await until("the screen that reads hears everything", all_pushed)
        assert resident_bytes(server.pid) - before < ALLOWED_BYTES

        async def cut_off() -> bool:
            return await push_connections(any_phone) <= connections - SCREENS

        await until("the screens that do not read are cut off", cut_off)
        for stream in stalled:
            await trio.aclose_forcefully(stream)
    await any_phone.opened("As if nothing had been")
    server.no_tracebacks()
