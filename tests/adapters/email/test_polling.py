"""A mailbox that is read over real sockets: nothing is lost, nothing twice, whatever happens in between."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
import trio
import trio.lowlevel
from msgspec import structs

from adapters.email import polling
from adapters.email.polling import MailboxPoller, has_mailbox
from adapters.guard import Guard
from adapters.port import Account, Tools
from adapters.service import AccountService, ServiceTools
from adapters.services import Services
from engine.domain.inbound import MessageReceived
from engine.domain.intake import Delivery, DeliveryReceipt
from engine.errors import StoreUnavailable
from engine.ports import Endpoint
from tests.adapters.email.mailbox_server import MailboxServer

pytestmark = pytest.mark.real_time

ADDRESS = "shop@mail.example"


def mail(number: int, size: int = 10) -> bytes:
    return (
        f"From: Amelia <amelia@mail.example>\r\nTo: {ADDRESS}\r\nSubject: Order\r\n"
        f"Message-ID: <{number}@mail.example>\r\n\r\n{'x' * size}\r\n"
    ).encode()


class Owner:
    """The other side of the service: what was delivered, the cursor, and who was told of trouble."""

    def __init__(self, server: MailboxServer) -> None:
        self.server = server
        self.ids: list[str] = []
        self.deliveries = 0
        self.cursor: str | None = None
        self.cursor_when: list[int] = []
        self.away = False
        self.notes: list[str] = []
        self.guard = Guard(allowed=[f"127.0.0.1:{server.port}"])
        self._changed = trio.Event()
        self.account = Account(
            tenant_id=7,
            channel_id=70,
            platform="email",
            external_id=ADDRESS,
            credentials={"imap_password": "secret", "reply_secret": "s"},
            settings={"imap_host": "127.0.0.1", "imap_port": server.port, "imap_security": "none"},
        )

    async def deliver(self, delivery: Delivery) -> DeliveryReceipt:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise StoreUnavailable("away")
        ((_, (event,)),) = delivery.groups
        assert isinstance(event, MessageReceived)
        self.deliveries += 1
        known = event.platform_id in self.ids
        if not known:
            self.ids.append(event.platform_id)
        self.stir()
        return DeliveryReceipt(stored=not known, duplicates=known)

    async def get(self, account: Account) -> str | None:
        return self.cursor

    async def put(self, account: Account, text: str) -> None:
        self.cursor = text
        self.cursor_when.append(len(self.ids))
        self.stir()

    def attention(self, account: Account, note: str) -> None:
        self.notes.append(note)
        self.stir()

    def endpoint(self, external_id: str) -> Endpoint | None:
        return Endpoint(
            platform="email",
            external_id=external_id,
            parent_id=None,
            tenant_id=7,
            channel_id=70,
            endpoint_key="k",
            secrets={"reply_secret": "s"},
        )

    def stir(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, met: Callable[[], bool]) -> None:
        with trio.fail_after(10):
            while not met():
                changed = self._changed
                with trio.move_on_after(0.05):
                    await changed.wait()

    @asynccontextmanager
    async def polling(self) -> AsyncIterator[None]:
        tools: Any = None

        async def account_at(endpoint: Endpoint) -> Account | None:
            return self.account

        async def serve(*_: Any, **__: Any) -> None:
            raise AssertionError("nothing listens here")

        poller = MailboxPoller(
            ServiceTools(
                tools=Tools(media=tools, guard=self.guard, link=lambda tenant_id, key: key),
                deliver=self.deliver,
                endpoint=self.endpoint,
                account=account_at,
                cursors=self,
                attention=self.attention,
                new_trace=lambda: "trace",
                wall_ms=lambda: 1_760_000_000_000,
                serve_asyncio=serve,
            )
        )

        async def accounts(platform: str) -> list[Account]:
            return [self.account]

        service = AccountService(name="imap", wants=has_mailbox, run=poller.run)
        services = Services({"email": [service]}, accounts, Random(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(services.run)
            yield
            with trio.fail_after(10):
                await services.stop(5)


@pytest.fixture
async def server() -> AsyncIterator[MailboxServer]:
    async with MailboxServer().running() as running:
        yield running


async def test_what_was_there_before_is_left_and_what_comes_is_taken(server: MailboxServer) -> None:
    """New mail comes at once where the server tells of it; the mailbox is only read."""
    server.put(mail(1))
    owner = Owner(server)
    async with owner.polling():
        await owner.until(lambda: owner.cursor is not None and "IDLE" in server.commands)
        server.put(mail(2))
        server.put(mail(3))
        await owner.until(lambda: len(owner.ids) == 2)
    assert owner.ids == ["2@mail.example", "3@mail.example"]
    assert owner.notes == []
    assert not [each for each in server.commands if each.startswith(("SELECT", "STORE", "UID STORE"))]


async def test_nothing_is_lost_while_we_are_away(server: MailboxServer) -> None:
    """A week's mail is there afterwards, and the cursor moved only behind what was taken."""
    owner = Owner(server)
    async with owner.polling():
        await owner.until(lambda: owner.cursor is not None)
    for number in range(1, 51):
        server.put(mail(number))
    async with owner.polling():
        await owner.until(lambda: len(owner.ids) == 50)
    assert owner.ids == [f"{number}@mail.example" for number in range(1, 51)]
    assert owner.deliveries == 50
    assert owner.cursor_when == [0, 20, 40, 50]


async def test_a_connection_that_breaks_costs_a_repetition_and_no_mail(
    server: MailboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.services.RESTART_SECONDS", (0.02, 0.05))
    monkeypatch.setattr(polling, "BATCH", 2)
    owner = Owner(server)
    async with owner.polling():
        await owner.until(lambda: owner.cursor is not None)
    server.cut_after = 3
    for number in range(1, 9):
        server.put(mail(number))
    async with owner.polling():
        await owner.until(lambda: len(owner.ids) == 8)
    assert owner.ids == [f"{number}@mail.example" for number in range(1, 9)]


async def test_while_the_store_is_away_the_cursor_stays(
    server: MailboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.services.RESTART_SECONDS", (0.02, 0.05))
    owner = Owner(server)
    async with owner.polling():
        await owner.until(lambda: owner.cursor is not None)
        before, owner.away = owner.cursor, True
        server.put(mail(1))
        logins = server.logins
        await owner.until(lambda: server.logins >= logins + 2)
        assert owner.cursor == before
        owner.away = False
        await owner.until(lambda: owner.ids == ["1@mail.example"])


async def test_a_mailbox_that_was_built_anew_is_read_again(server: MailboxServer) -> None:
    """Its numbers mean nothing any more; what was there before comes twice and counts once."""
    owner = Owner(server)
    async with owner.polling():
        await owner.until(lambda: owner.cursor is not None)
        server.put(mail(1))
        await owner.until(lambda: len(owner.ids) == 1)
    server.build_anew(mail(1), mail(2))
    async with owner.polling():
        await owner.until(lambda: len(owner.ids) == 2)
        server.put(mail(3))
        await owner.until(lambda: len(owner.ids) == 3)
    assert owner.ids == [f"{number}@mail.example" for number in (1, 2, 3)]
    assert owner.deliveries == 4


async def test_a_refused_login_marks_the_channel_and_is_not_hammered(server: MailboxServer) -> None:
    owner = Owner(server)
    server.password = "another"
    async with owner.polling():
        await owner.until(lambda: len(owner.notes) == 1)
        await trio.sleep(0.2)
        assert server.logins == 1
    assert owner.notes == ["The mailbox does not accept the user name and password."]


async def test_a_server_that_is_busy_says_nothing_of_the_password(
    server: MailboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.services.RESTART_SECONDS", (0.02, 0.05))
    owner = Owner(server)
    server.password, server.refusal = "another", "[UNAVAILABLE] later"
    async with owner.polling():
        await owner.until(lambda: server.logins >= 2)
        server.password = "secret"
        await owner.until(lambda: owner.cursor is not None)
    assert owner.notes == []


async def test_a_mailbox_of_our_own_network_is_not_called(server: MailboxServer) -> None:
    """Nor one at a port where no mailbox is, unless the operator has allowed the port."""
    owner = Owner(server)
    owner.account = structs.replace(
        owner.account, settings={**owner.account.settings, "imap_security": "tls"}
    )
    for guard in (Guard(ports=[server.port]), Guard()):
        owner.guard = guard
        async with owner.polling():
            await owner.until(lambda: len(owner.notes) == 1)
        assert server.connections_made == 0
        assert ("ports 143 and 993" in owner.notes.pop()) == (not guard.ports)


async def test_a_server_without_idle_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "POLL_SECONDS", 0.05)
    async with MailboxServer(idle=False).running() as server:
        owner = Owner(server)
        async with owner.polling():
            await owner.until(lambda: owner.cursor is not None)
            server.put(mail(1))
            await owner.until(lambda: owner.ids == ["1@mail.example"])
            await owner.until(lambda: server.logins >= 4)


async def test_a_mail_that_is_too_large_is_passed_over(
    server: MailboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "MESSAGE_BYTES_MAX", 5_000)
    owner = Owner(server)
    async with owner.polling():
        await owner.until(lambda: owner.cursor is not None)
        server.put(mail(1, size=6_000))
        server.put(mail(2))
        await owner.until(lambda: owner.ids == ["2@mail.example"])
