"""Connections to mail servers that carry more than one mail, and what ends them: never a mail."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from msgspec import structs

from adapters.email import keeping
from adapters.email.sending import EmailSender
from adapters.port import Accepted, Account, ErrorClass, SendResult, Tools, Unanswered
from adapters.simulators.faults import Fault
from engine.domain.outbound import SendText
from tests.adapters.contract.files import Files
from tests.adapters.email.test_composing import THREAD, item
from tests.adapters.email.test_submitting import World, refused, world
from tests.adapters.turns import AtOnce
from tests.fixtures.system import until

pytestmark = pytest.mark.real_time


class Line:
    """One sender, which lives as long as the process does."""

    def __init__(self, on: World, sender: EmailSender) -> None:
        self.on = on
        self._sender = sender

    async def send(self, number: int, account: Account | None = None) -> SendResult:
        given = item(send=SendText(body=f"Mail {number}"), thread=THREAD, message_id=number)
        return await self._sender.send(given, account or self.on.account, AtOnce())

    async def accepted(self, *numbers: int) -> None:
        for number in numbers:
            assert isinstance(await self.send(number), Accepted)

    @property
    def connections(self) -> int:
        return self.on.door.connections_made

    @property
    def arrived(self) -> list[str]:
        return [sent["text"].strip() for sent in self.on.sent]


@asynccontextmanager
async def line() -> AsyncIterator[Line]:
    async with world() as on:
        tools = Tools(media=Files({}), guard=on.guard, link=lambda tenant_id, key: key)
        async with EmailSender(tools) as sender:
            yield Line(on, sender)


async def left(on: World, but: int = 0) -> None:
    """Until no more than so many connections are there."""

    async def are_gone() -> bool:
        return on.door.connected <= but

    await until("the connections are closed", are_gone)


async def test_mails_of_one_account_go_over_one_connection() -> None:
    """With a login at its beginning, and RSET between them."""
    async with line() as on:
        await on.accepted(1, 2, 3)
        assert on.connections == 1
        assert on.arrived == ["Mail 1", "Mail 2", "Mail 3"]
        verbs = [each.split()[0].upper() for each in on.on.door.log]
        assert (verbs.count("AUTH"), verbs.count("RSET")) == (1, 2)


async def test_a_refused_recipient_spoils_no_connection() -> None:
    async with line() as on:
        on.on.door.refuse_recipients["amelia@mail.example"] = "550 5.1.1 No such user"
        assert refused(await on.send(1)) == (ErrorClass.UNDELIVERABLE, "5.1.1")
        on.on.door.refuse_recipients.clear()
        await on.accepted(2)
        assert (on.connections, on.arrived) == (1, ["Mail 2"])


async def test_two_mails_at_a_time_have_two_connections_and_each_is_used_again() -> None:
    async with line() as on:
        on.on.simulator.fault(Fault(kind="slow", seconds=0.3, times=2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(on.accepted, 1)
            nursery.start_soon(on.accepted, 2)
        await on.accepted(3, 4)
        assert (on.connections, sorted(on.arrived)) == (2, [f"Mail {number}" for number in (1, 2, 3, 4)])


async def test_a_connection_that_its_server_has_closed_costs_a_new_one_and_no_mail() -> None:
    """However it closes: with a word when it has had enough, or without one."""
    async with line() as on:
        on.on.door.mails_max = 2
        await on.accepted(1, 2, 3, 4, 5)
        assert (on.connections, on.arrived) == (3, [f"Mail {number}" for number in (1, 2, 3, 4, 5)])
        on.on.door.mails_max = None
        await on.on.door.cut_all()
        await on.accepted(6)
        assert (on.connections, on.arrived[-1]) == (4, "Mail 6")


async def test_a_cut_after_the_final_dot_is_not_tried_again() -> None:
    """Over a kept connection as over a new one: the server may have the mail."""
    async with line() as on:
        await on.accepted(1)
        on.on.simulator.fault(Fault(kind="reset", accepts=True, times=1))
        assert isinstance(await on.send(2), Unanswered)
        assert on.arrived == ["Mail 1", "Mail 2"]
        await on.accepted(3)
        assert (on.connections, on.arrived) == (2, ["Mail 1", "Mail 2", "Mail 3"])


async def test_a_reply_that_cannot_be_understood_ends_the_connection() -> None:
    async with line() as on:
        on.on.simulator.fault(Fault(kind="garbage", times=1))
        assert isinstance(await on.send(1), Unanswered)
        await on.accepted(2)
        assert on.connections == 2


async def test_another_login_has_a_connection_of_its_own() -> None:
    """New credentials are tried, not the old ones' connection."""
    async with line() as on:
        await on.accepted(1)
        wrong = structs.replace(
            on.on.account, credentials={**on.on.account.credentials, "smtp_password": "new"}
        )
        assert refused(await on.send(2, wrong)) == (ErrorClass.AUTH, "535")


async def test_what_is_idle_for_long_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "IDLE_SECONDS", 0.3)
    async with line() as on:
        await on.accepted(1)
        await left(on.on)
        await on.accepted(2)
        assert on.connections == 2
        assert [each for each in on.on.door.log if each == "QUIT"] == ["QUIT"]


async def test_nothing_is_left_when_the_sender_ends() -> None:
    async with world() as on:
        tools = Tools(media=Files({}), guard=on.guard, link=lambda tenant_id, key: key)
        async with EmailSender(tools) as sender:
            await Line(on, sender).accepted(1)
            assert on.door.connected == 1
        await left(on)


@pytest.mark.parametrize("limit", ["MAILS_MAX", "AGE_SECONDS"])
async def test_a_connection_has_an_end(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, limit, 2 if limit == "MAILS_MAX" else 0.0)
    async with line() as on:
        await on.accepted(1, 2, 3)
        assert on.connections == (2 if limit == "MAILS_MAX" else 3)


async def test_so_many_are_kept_of_all_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "IDLE_MAX", 1)
    async with line() as on:
        on.on.simulator.fault(Fault(kind="slow", seconds=0.3, times=2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(on.accepted, 1)
            nursery.start_soon(on.accepted, 2)
        await left(on.on, but=1)
