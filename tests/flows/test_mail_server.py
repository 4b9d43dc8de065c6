"""Mail without a mail service, from outside: a customer's server hands it in by SMTP, or a mailbox is read;
an agent answers, and the answer goes out by SMTP and comes back when it cannot be delivered."""

import smtplib
from collections.abc import AsyncIterator
from email.message import EmailMessage
from functools import partial
from itertools import count

import pytest
import trio
from msgspec import Struct

from adapters.simulators.mail.platform import MailSimulator
from adapters.simulators.mail.reports import failure_report
from adapters.simulators.mail.service import MailAccount
from tests.adapters.email.mailbox_server import MailboxServer
from tests.fixtures.system import Agent, Business, Json, until
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.real_time

_numbers = count(1)


class Post(Struct, kw_only=True):
    """A business's address: `port` is where its mail is handed in, `world` takes what it sends."""

    agent: Agent
    channel_id: int
    address: str
    port: int
    world: MailSimulator

    async def hand_in(self, mail: EmailMessage, sender: str, to: str | None = None) -> None:
        def run() -> None:
            with smtplib.SMTP("127.0.0.1", self.port, timeout=PATIENCE_SECONDS) as client:
                client.send_message(mail, sender, [to or self.address])

        await trio.to_thread.run_sync(run)

    async def conversation(self) -> Json:
        """The only one, once it is there."""

        async def found() -> Json | None:
            items = await self.agent.items("conversations", channel_id=self.channel_id)
            assert len(items) <= 1
            return items[0] if items else None

        conversation: Json = await until("a conversation", found)
        return conversation


@pytest.fixture
async def post(own_line: Business) -> AsyncIterator[Post]:
    server = own_line.server
    listening = await server.logged("service.listening", listener="smtp")
    address = f"shop{next(_numbers)}@shop.example"
    account = MailAccount(
        account_id=address,
        mailgun_api_key="key",
        mailgun_signing_key="sign",
        reply_secret="secret",
    )
    world = MailSimulator([account])
    port = server.simulator_ports_free.pop()
    try:
        async with own_line.agent() as agent, trio.open_nursery() as nursery:
            await nursery.start(partial(world.door.run, port=port))
            connected = await agent.post(
                "channels",
                {
                    "platform": "email",
                    "name": "Mail",
                    "external_id": address,
                    "credentials": {"smtp_password": "key", "reply_secret": "secret"},
                    "settings": {"smtp_host": "127.0.0.1", "smtp_port": port, "smtp_security": "none"},
                },
            )
            yield Post(
                agent=agent, channel_id=connected["id"], address=address, port=listening["port"], world=world
            )
            nursery.cancel_scope.cancel()
    finally:
        server.simulator_ports_free.append(port)


def letter(to: str, message_id: str, text: str) -> EmailMessage:
    made = EmailMessage()
    made["From"] = "Zoë <zoe@mail.example>"
    made["To"] = to
    made["Subject"] = "Order 1042"
    made["Message-ID"] = f"<{message_id}>"
    made.set_content(text)
    made.add_attachment(b"\x89PNG\r\n\x1a\n", maintype="image", subtype="png", filename="a.png")
    return made


async def test_mail_is_taken_answered_and_bounced(post: Post) -> None:
    """Taken once however often it is handed in, with its file; answered in its thread; failed by a report."""
    first = letter(post.address, f"one.{post.address}", "Where is it?")
    for _ in range(2):
        await post.hand_in(first, "zoe@mail.example")
    conversation = await post.conversation()

    async def with_file() -> Json | None:
        (message,) = await post.agent.messages(conversation["id"])
        return message if message["attachments"][0]["state"] == "stored" else None

    message = await until("the file is stored", with_file)
    assert message["content"]["body"] == "Where is it?"
    sent = await post.agent.say(conversation["id"], "On its way.")
    await post.agent.reaches(sent, "sent")
    (accepted,) = post.world.ledger.sends
    payload = post.world.ledger.payload(accepted.id)
    assert payload is not None
    headers = dict(payload["headers"])
    assert headers["In-Reply-To"] == f"<one.{post.address}>"
    assert headers["Subject"] == "Re: Order 1042"
    assert payload["to"] == "zoe@mail.example"
    await post.hand_in(failure_report(post.address, accepted.id, "zoe@mail.example"), "")
    await post.agent.reaches(sent, "failed")
    path = f"conversations/{conversation['id']}"
    hello = {"type": "text", "content": {"body": "Hello?"}}
    refused = await post.agent.refused(409, "undeliverable", "POST", f"{path}/messages", hello)
    assert "There is no such mailbox." in refused["message"]
    assert (await post.agent.get(path))["undeliverable"]["platform_code"] == "5.1.1"
    assert (await post.agent.delete(f"{path}/undeliverable"))["undeliverable"] is None
    await post.agent.reaches(await post.agent.say(conversation["id"], "Hello?"), "sent")


async def test_an_answer_from_another_address_finds_its_conversation(post: Post) -> None:
    """By our own id in what it refers to."""
    await post.hand_in(letter(post.address, f"two.{post.address}", "Hello"), "zoe@mail.example")
    conversation = await post.conversation()
    sent = await post.agent.say(conversation["id"], "Yes?")
    await post.agent.reaches(sent, "sent")
    answer = letter(post.address, f"three.{post.address}", "I meant this")
    answer.replace_header("From", "Zoë at work <zoe@office.example>")
    answer["In-Reply-To"] = f"<{post.world.ledger.sends[0].id}>"
    await post.hand_in(answer, "zoe@office.example")

    async def all_three() -> bool:
        return len(await post.agent.messages(conversation["id"])) == 3

    await until("the answer is in the same conversation", all_three)
    assert (await post.conversation())["id"] == conversation["id"]


async def test_nobody_elses_mail_is_taken(post: Post) -> None:
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        await post.hand_in(letter(post.address, "x@y", "Hi"), "zoe@mail.example", "else@other.example")


async def test_a_mailbox_is_read_from_where_it_was_left(own_line: Business) -> None:
    """From the moment when it is connected; while the channel is disabled nobody looks, and afterwards
    nothing is missing."""
    server = own_line.server
    address = f"box{next(_numbers)}@mail.example"
    port = server.simulator_ports_free.pop()
    mailbox = MailboxServer()
    mailbox.put(letter(address, f"old.{address}", "From before").as_bytes())
    try:
        async with mailbox.running(port), own_line.agent() as agent:
            connected = await agent.post(
                "channels",
                {
                    "platform": "email",
                    "name": "Mailbox",
                    "external_id": address,
                    "credentials": {"imap_password": "secret"},
                    "settings": {"imap_host": "127.0.0.1", "imap_port": port, "imap_security": "none"},
                },
            )
            await until("the mailbox is waited at", partial(_idles, mailbox))
            mailbox.put(letter(address, f"one.{address}", "One").as_bytes())

            async def texts() -> list[str]:
                found = []
                for each in await agent.items("conversations", channel_id=connected["id"]):
                    found += [one["content"]["body"] for one in await agent.messages(each["id"])]
                return found

            async def has(*wanted: str) -> bool:
                return sorted(await texts()) == sorted(wanted)

            await until("the first mail", partial(has, "One"))
            await agent.put(f"channels/{connected['id']}", {"status": "disabled"})
            await until("nobody waits any more", partial(_is_left, mailbox))
            mailbox.put(letter(address, f"two.{address}", "Two").as_bytes())
            await agent.put(f"channels/{connected['id']}", {"status": "active"})
            await until("the second mail", partial(has, "One", "Two"))
            await agent.delete(f"channels/{connected['id']}")
    finally:
        server.simulator_ports_free.append(port)


async def _idles(mailbox: MailboxServer) -> bool:
    return "IDLE" in mailbox.commands


async def _is_left(mailbox: MailboxServer) -> bool:
    return mailbox.connections == 0
