"""A mailbox that is read over real sockets: nothing is lost, nothing twice, whatever happens in between."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.message import EmailMessage
from email.policy import SMTP
from random import Random
from typing import Any

import pytest
import trio
import trio.lowlevel
from msgspec import structs

from adapters.email import excerpts, mailbox, polling
from adapters.email.mime import part_of
from adapters.email.parts import place_of
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
from tests.patience import PATIENCE_SECONDS

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
        self.events: list[MessageReceived] = []
        self.bodies: list[bytes] = []
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
            self.events.append(event)
            self.bodies.append(delivery.body)
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
        with trio.fail_after(PATIENCE_SECONDS):
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
            with trio.fail_after(PATIENCE_SECONDS):
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


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.services.RESTART_SECONDS", (0.02, 0.05))
    monkeypatch.setattr(polling, "MESSAGE_BYTES_MAX", 5_000)
    monkeypatch.setattr(mailbox, "LITERAL_BYTES_MAX", 6_000)
    monkeypatch.setattr(excerpts, "TEXT_BYTES", 1_000)


async def taken(server: MailboxServer, *mails: bytes) -> Owner:
    """The owner, after these came."""
    owner = Owner(server)
    async with owner.polling():
        await owner.until(lambda: owner.cursor is not None)
        for raw in mails:
            server.put(raw)
        await owner.until(lambda: len(owner.ids) == len(mails))
        await owner.until(lambda: owner.cursor_when[-1] == len(mails))
    return owner


def large(*, film: int = 9_000) -> bytes:
    """A mail as a telephone writes it: files first, then the text."""
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "Amelia <amelia@mail.example>", ADDRESS, "The film"
    made["Message-ID"] = "<1@mail.example>"
    made.make_mixed()
    made.add_attachment(b"f" * film, maintype="video", subtype="mp4", filename="ورشة.mp4")
    text = EmailMessage()
    text.set_content("Please look: it rattles — see the film.")
    text.add_alternative("<p>Please <b>look</b>: it rattles</p>", subtype="html")
    made.attach(text)
    made.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="bill.pdf")
    return made.as_bytes(policy=SMTP)


@pytest.mark.usefixtures("small_limits")
async def test_of_a_mail_that_is_too_large_an_agent_sees_what_can_be_read(server: MailboxServer) -> None:
    """Who wrote, the subject, the text and the files there is room for; and what was left, and why. The mail
    behind it is taken as always."""
    raw = large()
    owner = await taken(server, raw, mail(2))
    assert owner.ids == ["1@mail.example", "2@mail.example"]
    event = owner.events[0]
    assert (event.contact.name, event.contact.keys) == ("Amelia", ("amelia@mail.example",))
    assert event.content["subject"] == "The film"
    assert event.content["body"] == "Please look: it rattles — see the film."
    assert "<b>look</b>" in event.content["html"]
    assert "truncated" not in event.content
    left_out = event.content["left_out"]
    assert left_out["why"] == (
        f"The mail has {len(raw)} bytes; of one that has more than 5000 not everything is read."
    )
    (film,) = left_out["files"]
    assert (film["filename"], film["media_type"]) == ("ورشة.mp4", "video/mp4")
    assert film["bytes"] > 9_000
    (bill,) = event.media
    assert bill.filename == "bill.pdf"
    place = place_of(bill.source_id or "")
    assert place is not None
    assert part_of(owner.bodies[0], int(place.where)) == b"%PDF"
    assert len(owner.bodies[0]) < 5_000


@pytest.mark.usefixtures("small_limits")
async def test_a_text_that_is_too_large_is_read_from_its_beginning(server: MailboxServer) -> None:
    owner = await taken(server, mail(1, size=6_000))
    assert owner.events[0].content["body"] == "x" * 1_000
    assert owner.events[0].content["truncated"] is True
    assert owner.events[0].content["left_out"].keys() == {"why"}


@pytest.mark.usefixtures("small_limits")
async def test_a_mail_that_is_one_large_file_is_told_of(server: MailboxServer) -> None:
    raw = mail(1, size=6_000).replace(b"\r\n\r\n", b"\r\nContent-Type: audio/mpeg; name=song.mp3\r\n\r\n", 1)
    owner = await taken(server, raw)
    content = owner.events[0].content
    assert (content["body"], owner.events[0].media) == ("", ())
    assert content["left_out"]["files"] == [
        {"filename": "song.mp3", "media_type": "audio/mpeg", "bytes": 6_002}
    ]


@pytest.mark.usefixtures("small_limits")
async def test_a_mail_whose_parts_nobody_can_tell_is_told_of_by_its_headers(server: MailboxServer) -> None:
    server.structured = False
    owner = await taken(server, large(), mail(2))
    content = owner.events[0].content
    assert (content["subject"], content["body"]) == ("The film", "")
    assert content["truncated"] is True
    assert content["left_out"]["why"].endswith("This one's parts could not be told apart.")
    assert owner.events[1].content["body"] == "x" * 10


@pytest.mark.usefixtures("small_limits")
async def test_a_server_that_sends_more_than_it_told_does_not_hold_the_mailbox_up(
    server: MailboxServer,
) -> None:
    """Nor does it fill the memory: the mail is read by parts with the next connection."""
    server.size_told = 10
    owner = await taken(server, large(), mail(2))
    assert owner.events[0].content["body"] == "Please look: it rattles — see the film."
    assert owner.events[0].content["left_out"]["why"] == (
        "The mailbox sends more than the 5000 bytes that are read of a mail."
    )
    assert owner.ids == ["1@mail.example", "2@mail.example"]
