"""Sending over real SMTP, to a server that can misbehave: what each end of an attempt is."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec import structs

from adapters.email.sending import EmailSender
from adapters.guard import Guard
from adapters.port import Accepted, Account, Declined, ErrorClass, SendResult, Tools, Unanswered
from adapters.simulators.faults import Fault
from adapters.simulators.mail.platform import MailSimulator
from adapters.simulators.mail.server import MailDoor
from adapters.simulators.mail.service import MailAccount
from engine.domain.outbound import MediaRef, Send, SendMedia, SendText
from tests.adapters.contract.files import Files
from tests.adapters.email.certificates import certificate
from tests.adapters.email.test_composing import ADDRESS, THREAD, item
from tests.adapters.turns import AtOnce
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.real_time


class World:
    def __init__(self, simulator: MailSimulator, door: MailDoor) -> None:
        self.simulator = simulator
        self.door = door
        self.guard = Guard(allowed=[door.address, door.address.replace("127.0.0.1", "localhost")])
        host, _, port = door.address.rpartition(":")
        self.account = Account(
            tenant_id=7,
            channel_id=70,
            platform="email",
            external_id=ADDRESS,
            credentials={"reply_secret": "secret", "smtp_password": "key"},
            settings={
                "smtp_host": host,
                "smtp_port": int(port),
                "smtp_security": "none",
                "provider": "mailbox",
            },
        )

    async def send(
        self, send: Send | None = None, account: Account | None = None, **changes: Any
    ) -> SendResult:
        files = Files({"k/1": b"%PDF"})
        tools = Tools(media=files, guard=self.guard, link=lambda tenant_id, key: key)
        given = item(send=send or SendText(body="Hello\n.\n..dots"), thread=THREAD, **changes)
        async with EmailSender(tools) as sender:
            return await sender.send(given, account or self.account, AtOnce())

    def change(self, **settings: Any) -> Account:
        return structs.replace(self.account, settings={**self.account.settings, **settings})

    @property
    def sent(self) -> list[Any]:
        return [self.simulator.ledger.payload(each.id) for each in self.simulator.ledger.sends]


@asynccontextmanager
async def world(tls: ssl.SSLContext | None = None, *, implicit: bool = False) -> AsyncIterator[World]:
    account = MailAccount(
        account_id=ADDRESS,
        mailgun_api_key="key",
        mailgun_signing_key="sign",
        reply_secret="secret",
    )
    simulator = MailSimulator([account])
    door = MailDoor(simulator.api, simulator.accounts, simulator.expired, tls=tls, implicit_tls=implicit)
    async with trio.open_nursery() as nursery:
        await nursery.start(door.run)
        yield World(simulator, door)
        nursery.cancel_scope.cancel()


def refused(result: SendResult) -> tuple[ErrorClass, str]:
    assert isinstance(result, Declined), result
    assert result.message.endswith((".", ")"))
    return result.error_class, result.platform_code


async def test_a_mail_arrives_as_it_was_written() -> None:
    """Dots at the beginning of lines too; accepted by the id that it carries."""
    async with world() as on:
        result = await on.send()
        assert isinstance(result, Accepted)
        (sent,) = on.sent
        assert on.simulator.ledger.sends[0].id == result.platform_id
        assert sent["text"].replace("\r\n", "\n") == "Hello\n.\n..dots\n"
        assert sent["to"] == "amelia@mail.example"
        media = MediaRef(
            kind="document", storage_key="k/1", filename="ورقة.pdf", media_type="application/pdf"
        )
        assert isinstance(await on.send(SendMedia(media=media), message_id=4243), Accepted)
        assert on.sent[1]["files"] == ["ورقة.pdf"]


async def test_refusals_are_told_apart_by_their_codes() -> None:
    async with world() as on:
        on.door.refuse_recipients["amelia@mail.example"] = "550 5.1.1 No such user"
        assert refused(await on.send()) == (ErrorClass.UNDELIVERABLE, "5.1.1")
        on.door.refuse_recipients["amelia@mail.example"] = "550 5.7.1 Not wanted here"
        assert refused(await on.send()) == (ErrorClass.ACCOUNT, "5.7.1")
        on.door.refuse_recipients["amelia@mail.example"] = "452 4.2.2 Mailbox full"
        assert refused(await on.send()) == (ErrorClass.TRANSIENT, "4.2.2")
        on.door.refuse_recipients["amelia@mail.example"] = "421 Closing"
        assert refused(await on.send()) == (ErrorClass.TRANSIENT, "421")
        assert on.sent == []


async def test_a_greylisted_mail_is_taken_later() -> None:
    async with world() as on:
        on.door.greylist_seconds = 0.2
        assert refused(await on.send()) == (ErrorClass.TRANSIENT, "4.7.1")
        await trio.sleep(0.25)
        assert isinstance(await on.send(), Accepted)


async def test_a_refused_login_stops_the_account() -> None:
    async with world() as on:
        wrong = structs.replace(on.account, credentials={"reply_secret": "s", "smtp_password": "old"})
        assert refused(await on.send(account=wrong)) == (ErrorClass.AUTH, "535")
        on.simulator.expire_token()
        assert refused(await on.send()) == (ErrorClass.AUTH, "535")
        nobody = structs.replace(on.account, credentials={"reply_secret": "s"})
        assert refused(await on.send(account=nobody)) == (ErrorClass.AUTH, "530")


async def test_a_cut_after_the_final_dot_leaves_it_open() -> None:
    """Whether or not the server has it; before the dot it surely has not."""
    async with world() as on:
        on.simulator.fault(Fault(kind="reset", accepts=True, times=1))
        assert isinstance(await on.send(), Unanswered)
        assert len(on.sent) == 1
        on.simulator.fault(Fault(kind="garbage", times=1))
        assert isinstance(await on.send(message_id=2), Unanswered)
        on.simulator.fault(Fault(kind="error", status=554, times=1))
        assert refused(await on.send(message_id=3))[0] is ErrorClass.RECIPIENT


async def test_a_server_inside_and_a_port_that_is_nobodys_are_not_called() -> None:
    """A tenant gives the address: neither our network nor the ports of others may be looked through by it."""
    async with world() as on:
        secure = on.change(smtp_security="tls")
        on.guard = Guard()
        assert refused(await on.send(account=secure)) == (ErrorClass.ACCOUNT, "port_refused")
        for port in (25, 465, 587, 2525):
            result = await on.send(account=on.change(smtp_security="tls", smtp_port=port))
            assert refused(result) == (ErrorClass.ACCOUNT, "address_refused")
        on.guard = Guard(ports=[on.account.settings["smtp_port"]])
        for host in ("127.0.0.1", "localhost", "2130706433", "::1", "::ffff:127.0.0.1", "169.254.169.254"):
            result = await on.send(account=on.change(smtp_security="tls", smtp_host=host))
            assert refused(result) == (ErrorClass.ACCOUNT, "address_refused"), host
        assert on.door.log == []


async def test_a_server_that_nobody_reaches_has_taken_nothing() -> None:
    async with world() as on:
        on.guard = Guard(allowed=["127.0.0.1:9"], ports=[on.account.settings["smtp_port"]])
        assert refused(await on.send(account=on.change(smtp_port=9)))[0] is ErrorClass.UNREACHABLE
        assert refused(await on.send()) == (ErrorClass.ACCOUNT, "tls_required")
        assert refused(await on.send(account=on.change(smtp_security="tls"))) == (
            ErrorClass.ACCOUNT,
            "address_refused",
        )
        assert refused(await on.send(account=on.change(smtp_host=""))) == (ErrorClass.ACCOUNT, "no_server")


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_mail_goes_over_tls(security: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a server whose certificate holds, and to no other."""
    server, _ = certificate("localhost", tmp_path)
    async with world(server, implicit=security == "tls") as on:
        secure = on.change(smtp_security=security, smtp_host="localhost")
        result = await on.send(account=secure)
        assert refused(result) == (ErrorClass.UNREACHABLE, "tls_certificate")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "chain.pem"))
        assert isinstance(await on.send(account=secure), Accepted)
        other = on.change(smtp_security=security)
        assert refused(await on.send(account=other)) == (ErrorClass.UNREACHABLE, "tls_certificate")


async def test_without_tls_nothing_is_sent_unless_it_is_allowed() -> None:
    async with world() as on:
        assert refused(await on.send(account=on.change(smtp_security="starttls"))) == (
            ErrorClass.ACCOUNT,
            "no_starttls",
        )
        assert "AUTH" not in on.door.log


async def test_a_cancelled_attempt_ends_at_once() -> None:
    async with world() as on:
        on.simulator.fault(Fault(kind="hang", seconds=600, times=1))
        with trio.fail_after(PATIENCE_SECONDS), trio.move_on_after(0.5) as scope:
            await on.send()
        assert scope.cancelled_caught
