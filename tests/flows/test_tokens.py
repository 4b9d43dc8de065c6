"""An account's token over its life, through the real server, database and played platform: renewed in time,
expired, replaced; and what a screen, the API and an operator see of it."""

import re
from collections.abc import AsyncIterator, Mapping
from typing import Final

import httpx
import pytest
import trio
from msgspec import Struct

from storage.databases import DatabaseServer
from tests.cli.commands import mijra
from tests.fixtures.system import Business, Json, Server, screen, until
from tests.flows.test_pages import Page, page
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.real_time

DAY: Final = 86_400


class Account(Struct, kw_only=True):
    """A played account with a token that can be renewed, on a server that may be started again."""

    business: Business
    page: Page

    @property
    def path(self) -> str:
        return f"channels/{self.page.channel_id}"

    async def channel(self) -> Json:
        found: Json = await self.page.agent.get(self.path)
        return found

    async def becomes(self, status: str) -> Json:
        async def there() -> Json | None:
            channel = await self.channel()
            return channel if channel["status"] == status else None

        found: Json = await until(f"the channel is {status}", there)
        return found

    async def say(self, conversation: Json, *texts: str) -> list[Json]:
        return [await self.page.send(conversation, {"type": "text", "content": text}) for text in texts]

    def texts(self) -> list[str]:
        """What the platform has taken, in order."""
        return [each["text"] for each in self.page.payloads()]


@pytest.fixture
async def account(own_line: Business) -> AsyncIterator[Account]:
    async with page(own_line, "instagram") as opened:
        yield Account(business=own_line, page=opened)


@pytest.fixture
def alone(fragile_businesses: Mapping[str, Business], breakable: Server) -> Business:
    """In a database of its own, on a server that may be started again."""
    breakable.ensure_started()
    return fragile_businesses["own"]


async def test_an_expired_token_parks_and_a_new_one_sends_everything_once_and_in_order(
    account: Account,
) -> None:
    """Screens hear of both; the API says what happened, without a secret; nothing fails meanwhile."""
    conversation = await account.page.conversation()
    await account.page.agent.reaches((await account.say(conversation, "Before"))[0], "read")
    async with screen(account.business) as watching:
        account.page.sim.expire_token()
        sent = await account.say(conversation, *(f"Patience {number}" for number in range(5)))
        marked = await watching.event(
            "channel.updated", lambda data: data["channel"]["status"] == "needs_attention"
        )
        assert marked["data"]["channel"]["id"] == account.page.channel_id
        assert "expired" in marked["data"]["channel"]["status_note"]
        health = await account.page.agent.get(f"{account.path}/health")
        assert health["status"] == "needs_attention"
        assert health["last_error"]["code"] == "190/463"
        assert "expired" in health["last_error"]["message"]
        assert health["queued"] == 5
        assert health["counts"]["sent"] == 1
        assert health["last_accepted_at"] <= health["last_error"]["at"]
        assert health["last_received_at"] >= conversation["created_at"]
        assert health["sending"]["halted"]
        assert (await account.channel())["health"]["last_error"] == "190/463"
        other = await account.page.conversation("Customers are heard meanwhile")
        sent += await account.say(other, "Heard")
        account.page.sim.renew_token("another-token")
        changed = await account.page.agent.put(
            account.path,
            {
                "credentials": {"access_token": "another-token"},
                "credentials_expire_at": "2038-01-19T03:14:07Z",
            },
        )
        assert changed["credentials_expire_at"] == "2038-01-19T03:14:07.000Z"
        await watching.event("channel.updated", lambda data: data["channel"]["status"] == "active")
    for message in sent:
        await account.page.agent.reaches(message, "read")
    told = account.texts()
    assert sorted(told) == sorted(["Before", *(f"Patience {number}" for number in range(5)), "Heard"])
    assert [text for text in told if text.startswith("Patience")] == [f"Patience {n}" for n in range(5)]
    seen = str(await account.page.agent.items("channels")) + str(health)
    assert "another-token" not in seen


async def test_a_token_is_renewed_before_it_expires_while_messages_go_out(
    alone: Business, fragile_database: DatabaseServer
) -> None:
    """A server that starts when the token is due. Everything goes out once and in order over the change; the
    new token is in use, the old one too until then; the next start does not renew again."""
    server = alone.server
    async with page(alone, "instagram") as opened:
        account = Account(business=alone, page=opened)
        await opened.agent.put(account.path, {"credentials_expire_at": "2038-01-19T03:14:07Z"})
        conversation = await opened.conversation()
        first = (await opened.agent.get(account.path))["credentials_changed_at"]
        token = opened.sim.account().access_token
        await _age(server, fragile_database, alone, opened.channel_id)
        sent: list[Json] = []
        for number in range(12):
            sent += await account.say(conversation, str(number))
            await trio.sleep(0.05)

        async def renewed() -> Json | None:
            channel = await account.channel()
            return channel if channel["credentials_changed_at"] > first else None

        channel = await until("the token is renewed", renewed)
        assert channel["status"] == "active"
        fresh = opened.sim.account().access_token
        assert fresh != token
        for message in [*sent, *await account.say(conversation, "12")]:
            await opened.agent.reaches(message, "read")
        assert account.texts() == [str(number) for number in range(13)]
        health = await opened.agent.get(f"{account.path}/health")
        assert health["renewal"]["renewed_at"] >= health["credentials_changed_at"][:19]
        assert health["renewal"]["error"] is None
        assert await _metric(server, 'mijra_credentials_renewals_total{outcome="renewed",') == 1
        left = await _metric(server, "mijra_credentials_expire_seconds{")
        assert 59 * DAY < left <= 60 * DAY
        server.terminate()
        server.wait_stopped()
        server.start()
        await opened.agent.reaches((await account.say(conversation, "13"))[0], "read")
        assert opened.sim.account().access_token == fresh


async def test_a_token_that_the_platform_will_not_renew_asks_for_a_person(
    alone: Business, fragile_database: DatabaseServer
) -> None:
    """With the platform's sentence, and only once; a person's new token ends it."""
    server = alone.server
    async with page(alone, "instagram") as opened:
        account = Account(business=alone, page=opened)
        opened.sim.expire_token()
        await _age(server, fragile_database, alone, opened.channel_id)
        channel = await account.becomes("needs_attention")
        assert channel["status_note"] == "The access token has expired. Connect the account again."
        await trio.sleep(0.5)
        assert opened.sim.ledger.refusals[190] == 1
        of = ("--tenant", alone.slug)
        shown = (await mijra(server.data_dir, "channel", "list", *of, COLUMNS="200")).stdout.decode()
        assert re.search(
            rf"^{opened.channel_id} +instagram .*needs_attention.*has expired", shown, re.MULTILINE
        )
        asked = await mijra(server.data_dir, "channel", "check", *of, str(opened.channel_id))
        assert (asked.returncode, b"works    no" in asked.stdout) == (1, True)
        opened.sim.renew_token("another-token")
        await opened.agent.put(account.path, {"credentials": {"access_token": "another-token"}})
        assert (await account.channel())["status"] == "active"
        asked = await mijra(server.data_dir, "channel", "check", *of, str(opened.channel_id))
        assert (asked.returncode, b"works    yes" in asked.stdout) == (0, True), asked.stdout
        conversation = await opened.conversation()
        await opened.agent.reaches((await account.say(conversation, "Back"))[0], "read")


async def _age(server: Server, database: DatabaseServer, business: Business, channel_id: int) -> None:
    """Stops the server, makes the credentials old enough to be renewed, and starts it again."""
    server.terminate()
    server.wait_stopped()
    times = "credentials_at = now() - interval '45 days', credentials_expire_at = now() + interval '15 days'"
    for name, table, key in (
        (database.landlord_database, "channel_directory", "channel_id"),
        (database.own_database(business.id), "channels", "id"),
    ):
        pool = database.pool(name)
        statement = f"UPDATE {table} SET {times} WHERE {key} = $1 RETURNING 1"
        found = await pool.fetchval(statement, channel_id, tenants=(business.id,))
        assert found == 1
    server.start()


async def _metric(server: Server, start: str) -> float:
    async with httpx.AsyncClient(
        base_url=server.operator_url, trust_env=False, timeout=PATIENCE_SECONDS
    ) as client:
        lines = (await client.get("/metrics")).text.splitlines()
    (line,) = [each for each in lines if each.startswith(start)]
    return float(line.rpartition(" ")[2])
