"""E-mail from outside: mail services post to the real server, agents see the mail and its files."""

import hashlib
import hmac
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import httpx
import pytest
from msgspec import Struct

from adapters.email.threading import reply_address
from tests.fixtures.system import Agent, Business, Json, until
from tests.patience import PATIENCE_SECONDS
from tests.plain import PLAIN

pytestmark = pytest.mark.real_time

_numbers = count(1)
SIGNING_KEY = "a-signing-key"
REPLY_SECRET = "a-reply-secret"


class Post(Struct, kw_only=True):
    """An address, and the services that bring its mail."""

    business: Business
    agent: Agent
    channel_id: int
    address: str
    url: str
    http: httpx.AsyncClient

    async def mailgun(self, *, message_id: str, files: dict[str, bytes] | None = None, **more: str) -> int:
        fields = {
            "recipient": self.address,
            "sender": "zoe@example.org",
            "from": "Zoe <zoe@example.org>",
            "subject": "Order",
            "Message-Id": f"<{message_id}>",
            "body-plain": "See the files.",
            **signature(f"{next(_numbers):050d}"),
            **more,
        }
        given = {name: (f"{name}.pdf", content, "application/pdf") for name, content in (files or {}).items()}
        answer = await self.http.post(self.url, data=fields, files=given or None)
        return answer.status_code

    async def message(self, platform_id: str) -> Json:
        async def found() -> Json | None:
            for each in await self.agent.items("conversations", channel_id=self.channel_id):
                for message in await self.agent.messages(each["id"]):
                    if message["platform_message_id"] == platform_id:
                        return message
            return None

        message: Json = await until(f"{platform_id} is stored", found)
        return message

    async def stored(self, platform_id: str) -> Json:
        """The message once its files are here."""

        async def fetched() -> Json | None:
            shown = await self.message(platform_id)
            return shown if all(each["state"] == "stored" for each in shown["attachments"]) else None

        message: Json = await until(f"the files of {platform_id} are stored", fetched, 20.0)
        return message


def signature(token: str) -> dict[str, str]:
    value = hmac.new(SIGNING_KEY.encode(), f"1767690000{token}".encode(), hashlib.sha256).hexdigest()
    return {"timestamp": "1767690000", "token": token, "signature": value}


@pytest.fixture
async def post(own_line: Business) -> AsyncIterator[Post]:
    async with own_line.agent() as agent, httpx.AsyncClient(timeout=PATIENCE_SECONDS, **PLAIN) as http:
        address = f"help{next(_numbers)}@shop.example"
        channel = await agent.post(
            "channels",
            {
                "platform": "email",
                "name": address,
                "external_id": address,
                "credentials": {"mailgun_signing_key": SIGNING_KEY, "reply_secret": REPLY_SECRET},
                "settings": {"provider": "mailgun"},
            },
        )
        yield Post(
            business=own_line,
            agent=agent,
            channel_id=channel["id"],
            address=address,
            url=channel["webhook_url"],
            http=http,
        )


async def test_a_mail_with_large_files_is_stored_with_them(post: Post) -> None:
    """Six megabytes in one webhook, there for the agent byte for byte. The same delivery again changes
    nothing."""
    files = {"attachment-1": b"%PDF" + bytes(range(256)) * 24_000, "attachment-2": b"%PDF small"}
    token = signature(f"{next(_numbers):050d}")
    for _ in range(2):
        assert await post.mailgun(message_id="large@example.org", files=files, **token) == 200

    message = await post.stored("large@example.org")
    assert message["content"]["body"] == "See the files."
    assert [each["filename"] for each in message["attachments"]] == ["attachment-1.pdf", "attachment-2.pdf"]
    for attachment, content in zip(message["attachments"], files.values(), strict=True):
        answer = await post.http.get(attachment["url"])
        assert answer.content == content
    conversations = await post.agent.items("conversations", channel_id=post.channel_id)
    assert [each["message_count"] for each in conversations] == [1]


async def test_who_does_not_sign_is_refused_and_leaves_nothing(post: Post) -> None:
    assert await post.mailgun(message_id="forged@example.org", signature="0" * 64) == 401
    assert not await post.agent.items("conversations", channel_id=post.channel_id)


async def test_an_answer_from_another_address_comes_to_the_same_conversation(post: Post) -> None:
    """By the reply address that our mail had, which only the account could have made."""
    assert await post.mailgun(message_id="first@example.org") == 200
    first = await post.message("first@example.org")
    path = f"conversations/{first['conversation_id']}/messages"
    ours = await post.agent.post(path, {"type": "text", "content": {"body": "Which size?"}})
    tagged = reply_address(ours["id"], account=post.address, secret=REPLY_SECRET)
    elsewhere: dict[str, Any] = {
        "sender": "zoe@work.example",
        "from": "Zoe at work <zoe@work.example>",
        "recipient": tagged,
    }

    assert await post.mailgun(message_id="second@work.example", **elsewhere) == 200

    second = await post.message("second@work.example")
    assert second["conversation_id"] == first["conversation_id"]
    assert second["reply_to"]["id"] == ours["id"]
    assert second["metadata"]["written_by"] == "zoe@work.example"
    forged: dict[str, Any] = {
        **elsewhere,
        "recipient": reply_address(ours["id"], account=post.address, secret="a guess"),
    }
    assert await post.mailgun(message_id="third@work.example", **forged) == 200
    third = await post.message("third@work.example")
    assert third["conversation_id"] != first["conversation_id"]
