"""The built-in mail server over real sockets: what it takes, what it refuses, and when it says so."""

import smtplib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import SMTP
from typing import Any

import pytest
import trio

from adapters.email import listening
from adapters.email.listening import MailListener
from adapters.port import Account, Tools
from adapters.service import Listen, ServiceTools
from engine.domain.inbound import MessageReceived
from engine.domain.intake import Delivery, DeliveryReceipt
from engine.errors import MailboxFull, MijraError, StoreUnavailable
from engine.ports import Endpoint
from storage.bridge import Bridge
from tests.adapters.email.certificates import certificate
from tests.adapters.email.judged import Resolver, names, signed
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.real_time

ADDRESS = "support@shop.example"


class Nothing:
    """No media, no cursors: a listener needs neither."""


class House:
    """One account, and everything that was delivered; `fail` is raised in place of taking."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.fail: MijraError | Exception | None = None
        self.before: Callable[[], Awaitable[None]] | None = None
        self.port = 0
        self.ready = trio.Event()
        self.stopping = trio.Event()
        self.tls: ssl.SSLContext | None = None
        self.wishes: dict[str, str] = {}
        self.resolver = Resolver(names())
        self.strangers = False

    async def deliver(self, delivery: Delivery) -> DeliveryReceipt:
        if self.before is not None:
            await self.before()
        if self.fail is not None:
            raise self.fail
        self.deliveries.append(delivery)
        return DeliveryReceipt(stored=1)

    def endpoint(self, external_id: str) -> Endpoint | None:
        if external_id not in (ADDRESS, "sales@shop.example"):
            return None
        return Endpoint(
            platform="email",
            external_id=external_id,
            parent_id=None,
            tenant_id=7,
            channel_id=70,
            endpoint_key="k",
            secrets={"reply_secret": "s"},
        )

    def is_listening(self, name: str, host: str, port: int) -> None:
        assert name == "smtp"
        self.port = port
        self.ready.set()

    @asynccontextmanager
    async def running(self, bridge: Bridge) -> AsyncIterator[MailListener]:
        async def account(endpoint: Endpoint) -> Account | None:
            wish = self.wishes.get(endpoint.external_id)
            return Account(
                tenant_id=7,
                channel_id=70,
                platform="email",
                external_id=endpoint.external_id,
                credentials={},
                settings={"dmarc": wish} if wish is not None else {},
            )

        nothing: Any = Nothing()
        tools: Tools = nothing
        listener = MailListener(
            ServiceTools(
                tools=tools,
                deliver=self.deliver,
                endpoint=self.endpoint,
                account=account,
                cursors=nothing,
                attention=lambda account, note: None,
                new_trace=lambda: "trace",
                wall_ms=lambda: 1_760_000_000_000,
                serve_asyncio=bridge.serve,
                listen={"smtp": Listen(host="127.0.0.1", port=0)},
                tls=lambda: self.tls,
                listening=self.is_listening,
            ),
            self.resolver,
            lambda address: self.strangers,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.run, self.stopping)
            await self.ready.wait()
            yield listener
            nursery.cancel_scope.cancel()


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with Bridge() as opened:
        yield opened


def mail(text: str = "Hello", message_id: str = "<one@mail.example>") -> EmailMessage:
    made = EmailMessage()
    made["From"] = "Amelia <amelia@mail.example>"
    made["To"] = ADDRESS
    made["Subject"] = "Order"
    made["Message-ID"] = message_id
    made.set_content(text)
    return made


async def send(
    house: House,
    recipients: Sequence[str] = (ADDRESS,),
    *,
    sender: str = "amelia@mail.example",
    message: EmailMessage | None = None,
    tls: ssl.SSLContext | None = None,
) -> Any:
    def run() -> Any:
        with smtplib.SMTP("127.0.0.1", house.port, timeout=PATIENCE_SECONDS) as client:
            if tls is not None:
                client.starttls(context=tls)
            return client.sendmail(sender, list(recipients), (message or mail()).as_bytes(policy=SMTP))

    return await trio.to_thread.run_sync(run)


async def listens(port: int) -> bool:
    """Whether somebody takes connections there, and says hello."""
    try:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            return bytes(await stream.receive_some()).startswith(b"220")
    except (OSError, trio.BrokenResourceError):
        return False


async def test_a_mail_is_taken_once_it_is_durable(bridge: Bridge) -> None:
    """The delivery has the mail as it came, and the event that is made of it."""
    house = House()
    async with house.running(bridge):
        waited = trio.Event()
        durable = trio.Event()

        async def wait() -> None:
            waited.set()
            await durable.wait()

        house.before = wait
        answered = trio.Event()

        async def sender() -> None:
            assert await send(house) == {}
            answered.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender)
            await waited.wait()
            await trio.sleep(0.1)
            assert not answered.is_set(), "250 comes after the commit"
            durable.set()
        (delivery,) = house.deliveries
        ((endpoint, (event,)),) = delivery.groups
        assert endpoint.external_id == ADDRESS
        assert isinstance(event, MessageReceived)
        assert (event.platform_id, event.text) == ("one@mail.example", "Hello")
        assert event.contact.keys == ("amelia@mail.example",)
        assert b"Subject: Order" in delivery.body


async def test_only_connected_addresses_are_taken_with_or_without_a_tag(bridge: Bridge) -> None:
    house = House()
    async with house.running(bridge):
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            await send(house, ["somebody@elsewhere.example"])
        assert refused.value.recipients["somebody@elsewhere.example"][0] == 550
        refusals = await send(
            house, ["Support+mabc@SHOP.example", "nobody@shop.example", "sales@shop.example"]
        )
        assert list(refusals) == ["nobody@shop.example"]
        (delivery,) = house.deliveries
        assert [endpoint.external_id for endpoint, _ in delivery.groups] == [ADDRESS, "sales@shop.example"]


async def test_the_empty_sender_is_taken_and_marked(bridge: Bridge) -> None:
    house = House()
    async with house.running(bridge):
        await send(house, sender="")
        ((_, (event,)),) = house.deliveries[0].groups
        assert isinstance(event, MessageReceived)
        assert not event.automated


@pytest.mark.parametrize(
    "error", [StoreUnavailable("away"), MailboxFull("full"), ValueError("a bug")], ids=["away", "full", "bug"]
)
async def test_what_cannot_be_stored_is_to_be_sent_again(bridge: Bridge, error: Exception) -> None:
    house = House()
    house.fail = error
    async with house.running(bridge):
        with pytest.raises(smtplib.SMTPDataError) as refused:
            await send(house)
        assert refused.value.smtp_code == 451
        house.fail = None
        assert await send(house) == {}


async def test_what_is_too_large_is_refused(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the size that it says, and by the size that it has."""
    monkeypatch.setattr(listening, "MESSAGE_BYTES_MAX", 20_000)
    house = House()
    async with house.running(bridge):

        def too_large() -> tuple[int, int]:
            with smtplib.SMTP("127.0.0.1", house.port, timeout=PATIENCE_SECONDS) as client:
                client.ehlo()
                said = client.docmd("MAIL", "FROM:<a@b.example> SIZE=30000")[0]
                client.rset()
                client.mail("a@b.example")
                client.rcpt(ADDRESS)
                return said, client.data(b"x" * 30 + b"\r\n" + b"y" * 500 + (b"\r\n" + b"z" * 500) * 60)[0]

        assert await trio.to_thread.run_sync(too_large) == (552, 552)
        assert house.deliveries == []


async def test_a_circle_is_broken(bridge: Bridge) -> None:
    house = House()
    async with house.running(bridge):
        message = mail()
        for _ in range(60):
            message["Received"] = "from a by b"
        with pytest.raises(smtplib.SMTPDataError) as refused:
            await send(house, message=message)
        assert refused.value.smtp_code == 554


async def test_one_address_has_so_many_connections(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    """More are told to come back, and those that end make room."""
    monkeypatch.setattr(listening, "PER_ADDRESS_MAX", 2)
    house = House()
    async with house.running(bridge) as listener:

        def crowd() -> list[int]:
            clients = [smtplib.SMTP("127.0.0.1", house.port, timeout=PATIENCE_SECONDS) for _ in range(2)]
            try:
                smtplib.SMTP("127.0.0.1", house.port, timeout=PATIENCE_SECONDS)
            except smtplib.SMTPConnectError as error:
                codes = [error.smtp_code]
            else:
                codes = []
            for client in clients:
                client.quit()
            return codes

        assert await trio.to_thread.run_sync(crowd) == [421]
        with trio.fail_after(PATIENCE_SECONDS):
            while listener.connections:  # noqa: ASYNC110  # counted on asyncio's side
                await trio.sleep(0.01)
        assert await send(house) == {}


async def in_data(house: House) -> trio.SocketStream:
    """A connection that has been asked for its mail and says nothing more."""
    stream = await trio.open_tcp_stream("127.0.0.1", house.port)
    said = b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<" + ADDRESS.encode() + b">\r\nDATA\r\n"
    for line in said.splitlines(keepends=True):
        await stream.receive_some(4096)
        await stream.send_all(line)
    answer = await stream.receive_some(4096)
    assert answer.startswith(b"354"), answer
    return stream


async def until_closed(stream: trio.SocketStream, sent: bytes, times: int, seconds: float = 0) -> int:
    """How often `sent` was taken, with so many seconds between, before the server ended the connection."""
    with trio.fail_after(20):
        for number in range(times):
            try:
                await stream.send_all(sent)
            except trio.BrokenResourceError:
                return number
            await trio.sleep(seconds)
    return times


@pytest.mark.parametrize("piece", [b"x" * 65_536, b"x\n" * 32_768, b"x\r" * 32_768], ids=["x", "lf", "cr"])
async def test_a_line_without_an_end_is_cut_off(bridge: Bridge, piece: bytes) -> None:
    """It would be kept until its end: whoever sends none would fill the memory. Bare line feeds end none."""
    house = House()
    async with house.running(bridge), await in_data(house) as stream:
        assert await until_closed(stream, piece, 400) < 400
    assert house.deliveries == []


async def test_a_mail_without_an_end_is_cut_off(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mail that is a little too large is refused at its end, where its sender listens; one that goes on and
    on is not read for ever."""
    monkeypatch.setattr(listening, "MESSAGE_BYTES_MAX", 1_000_000)
    house = House()
    async with house.running(bridge), await in_data(house) as stream:
        assert await until_closed(stream, b"x" * 998 + b"\r\n", 20_000) < 20_000


async def test_who_sends_too_slowly_is_cut_off(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    """So long for the whole, and longer only by what has come."""
    monkeypatch.setattr(listening, "DATA_SECONDS_MAX", 0.3)
    house = House()
    async with house.running(bridge), await in_data(house) as stream:
        assert await until_closed(stream, b"x", 200, 0.05) < 200


async def test_one_address_holds_half_of_the_mails_under_way_at_most(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are for the others: mails that do not end keep nobody else's out."""
    monkeypatch.setattr(listening, "TAKING_MAX", 4)
    house = House()
    async with house.running(bridge) as listener:
        held = [await in_data(house) for _ in range(2)]
        with pytest.raises(smtplib.SMTPDataError) as refused:
            await send(house)
        assert refused.value.smtp_code == 452
        assert listener.taking.total() == 2
        for stream in held:
            await stream.aclose()
        with trio.fail_after(10):
            while listener.taking.total():  # noqa: ASYNC110  # counted on asyncio's side
                await trio.sleep(0.01)
        assert await send(house) == {}


async def test_what_ends_no_line_ends_no_mail(bridge: Bridge) -> None:
    """SMTP smuggling: a dot between bare line feeds or carriage returns is text of the one mail that it is in
    (CVE-2023-51764 and its kin)."""
    house = House()
    hidden = b"MAIL FROM:<ceo@shop.example>\r\nRCPT TO:<" + ADDRESS.encode() + b">\r\nDATA\r\n"
    ends = (b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r\n\x00.\r\n")
    async with house.running(bridge):
        for number, end in enumerate(ends):
            async with await in_data(house) as stream:
                body = b"From: a@b.example\r\n\r\nA text" + end + hidden + b"smuggled"
                await stream.send_all(body + b"\r\n.\r\nNOOP\r\n")
                answers = b""
                while answers.count(b"\n") < 2:
                    answers += await stream.receive_some(4096)
                assert [line[:3] for line in answers.splitlines()] == [b"250", b"250"], (end, answers)
            assert len(house.deliveries) == number + 1, end
            assert b"smuggled" in house.deliveries[-1].body


async def test_tls_is_offered_with_a_certificate(bridge: Bridge, tmp_path: Any) -> None:
    house = House()
    server, client = certificate("localhost", tmp_path)
    client.check_hostname = False
    house.tls = server
    async with house.running(bridge) as listener:
        assert await send(house, tls=client) == {}
        with trio.fail_after(PATIENCE_SECONDS):
            while listener.connections:  # noqa: ASYNC110  # counted on asyncio's side
                await trio.sleep(0.01)
    without = House()
    async with without.running(bridge):
        with pytest.raises(smtplib.SMTPNotSupportedError):
            await send(without, tls=client)


async def test_a_stop_lets_a_mail_under_way_be_answered(bridge: Bridge) -> None:
    """And takes no other."""
    house = House()
    async with house.running(bridge):
        begun, durable = trio.Event(), trio.Event()

        async def wait() -> None:
            begun.set()
            await durable.wait()

        house.before = wait
        results = []

        async def sender() -> None:
            results.append(await send(house))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender)
            await begun.wait()
            house.stopping.set()
            with trio.fail_after(PATIENCE_SECONDS):
                while await listens(house.port):  # noqa: ASYNC110
                    await trio.sleep(0.01)
            with pytest.raises((smtplib.SMTPException, ConnectionError)):
                await send(house)
            durable.set()
        assert results == [{}]
        assert len(house.deliveries) == 1


async def test_who_sends_is_noted_with_the_message(bridge: Bridge) -> None:
    """As a fact, and as a sentence where it is not who it says."""
    house = House()
    house.strangers = True
    async with house.running(bridge):
        await send(house)
        (_, (event,)) = house.deliveries[0].groups[0]
        assert isinstance(event, MessageReceived)
        facts = event.metadata["email"]
        assert (facts["dmarc"], facts["dmarc_policy"], facts["dkim"]) == ("fail", "reject", "none")
        assert facts["warning"].startswith("The sender's address is not proven")


async def test_what_its_domain_wants_refused_is_where_the_account_says_so(bridge: Bridge) -> None:
    """A mail that is signed is taken; and so is one that is for somebody else too, who takes such."""
    house = House()
    house.strangers = True
    house.wishes = {ADDRESS: "refuse"}
    async with house.running(bridge):
        with pytest.raises(smtplib.SMTPDataError) as refusal:
            await send(house)
        assert refusal.value.smtp_code == 550
        assert "5.7.26 mail.example" in str(refusal.value)
        assert house.deliveries == []
        await send(house, (ADDRESS, "sales@shop.example"))
        assert len(house.deliveries[0].groups) == 2
        good = BytesParser(policy=SMTP, _class=EmailMessage).parsebytes(signed(mail().as_bytes(policy=SMTP)))
        await send(house, message=good)
        (_, (event,)) = house.deliveries[1].groups[0]
        assert isinstance(event, MessageReceived)
        assert event.metadata["email"]["dmarc"] == "pass"


async def test_nobody_is_asked_where_nothing_is_judged(bridge: Bridge) -> None:
    """The account wants none of it, or a server of our own network passes the mail on."""
    house = House()
    async with house.running(bridge):
        await send(house)
        house.strangers, house.wishes = True, {ADDRESS: "off"}
        await send(house)
    assert house.resolver.asked == []
    for delivery in house.deliveries:
        (_, (event,)) = delivery.groups[0]
        assert isinstance(event, MessageReceived)
        assert "dmarc" not in event.metadata["email"]
