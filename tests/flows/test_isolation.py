"""Two businesses on one system: nothing of the one reaches the other, whichever way it is tried."""

import json

import pytest

from adapters.simulators import builders
from adapters.simulators.builders import Person
from engine.errors import MijraError
from storage.databases import DatabaseServer
from tests.fixtures.system import Business, Line, line, refused_screen, screen
from tests.ledger import books_of

TABLES = (
    "conversations",
    "messages",
    "events",
    "customers",
    "customer_handles",
    "channels",
    "outbox",
    "users",
)


async def test_anothers_ids_do_not_exist(phone: Line, neighbour: Business) -> None:
    """With one's own token at one's own address, and with it at the other's: never the content."""
    conversation = await phone.opened("Between us")
    (message,) = await phone.agent.messages(conversation["id"])
    async with neighbour.agent() as b, phone.business.agent(neighbour.token) as intruder:
        paths = [
            f"conversations/{conversation['id']}",
            f"conversations/{conversation['id']}/messages",
            f"conversations/{conversation['id']}/notes",
            f"channels/{phone.channel_id}",
            f"users/{phone.business.owner_id}",
        ]
        for path in paths:
            answer = await b.call("GET", path)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
            answer = await intruder.call("GET", path)
            assert answer.status_code in (401, 403, 404), path
            assert "Between us" not in answer.text
        for path, body in (
            (f"conversations/{conversation['id']}/messages", {"type": "text", "content": "Hi"}),
            (f"conversations/{conversation['id']}/assign", {"user_id": neighbour.owner_id}),
            (f"messages/{message['id']}/reaction", {"emoji": "👍"}),
            (f"messages/{message['id']}/retry", {}),
        ):
            await b.refused(404, "not_found", "POST", path, body)
        bulk = {"conversation_ids": [conversation["id"]], "status": "archived"}
        outcome = await b.post("conversations/bulk-status", bulk)
        assert (outcome["succeeded"], outcome["items"][0]["code"]) == (0, "not_found")
        assert all(one["id"] != conversation["id"] for one in await b.items("conversations"))
    (unchanged,) = await phone.agent.messages(conversation["id"])
    assert unchanged == message


async def test_a_screen_hears_its_own_business_alone(phone: Line, neighbour: Business) -> None:
    """Another's token is refused, another's channel is forbidden, and the own inbox stays silent."""
    conversation = await phone.opened()
    channel = f"conversations.{conversation['id']}"
    async with screen(neighbour) as own, line(neighbour) as theirs:
        await own.subscribe(channel)
        assert own.frames[-1]["type"] == "error"
        await own.subscribe(f"users.{phone.business.owner_id}")
        assert own.frames[-1]["type"] == "error"
        await phone.stored(phone.sim.say(phone.new_customer(), "For A alone"))
        mine = theirs.sim.say(theirs.new_customer(), "For B")
        heard = await own.event("message.received")
        assert heard["data"]["message"]["platform_message_id"] == mine
        assert "For A alone" not in json.dumps(own.frames)
    assert await refused_screen(phone.business, neighbour.token) in (4001, 4002)
    assert await refused_screen(phone.business, "1|guessed") == 4001


async def test_a_secret_vouches_for_its_own_account_alone(
    phone: Line, neighbour: Business, database: DatabaseServer
) -> None:
    """B signs a delivery for A's number with B's secret: refused, in A's name nothing is stored."""
    async with line(neighbour) as theirs:
        person = Person(name="Mallory", wa_id=phone.new_customer())
        body = phone.text_webhook(person, f"wamid.forged{person.wa_id}", "Forged")
        answer = await phone.post(body, builders.signature(theirs.account.app_secret, body))
        assert answer.status_code == 401
        books = await books_of(phone.business, phone.sim, phone.channel_id, database)
        assert not await books.messages()
        both = json.loads(body)
        own = theirs.text_webhook(person, f"wamid.own{person.wa_id}", "Own")
        both["entry"] += json.loads(own)["entry"]
        mixed = json.dumps(both).encode()
        answer = await phone.post(mixed, builders.signature(theirs.account.app_secret, mixed))
        assert answer.status_code == 200
        await theirs.stored(f"wamid.own{person.wa_id}")
        assert not await books.messages()


async def test_the_database_itself_hides_another_tenants_rows(
    phone: Line, neighbour: Business, database: DatabaseServer
) -> None:
    """Direct SQL under the application's role: with another tenant's setting, or none, there is nothing to
    read and nothing can be written."""
    await phone.opened()
    books = await books_of(phone.business, phone.sim, phone.channel_id, database)
    for table in TABLES:
        count = f"SELECT count(*) FROM {table} WHERE tenant_id = $1"
        assert await books.pool.fetchval(
            count, phone.business.id, tenants=[phone.business.id]
        ) > 0 or table == ("outbox")
        assert await books.pool.fetchval(count, phone.business.id, tenants=[neighbour.id]) == 0
        assert await books.pool.fetchval(count, phone.business.id) == 0
    with pytest.raises(MijraError):
        await books.pool.fetch(
            "INSERT INTO tags VALUES ($1, 1, 'smuggled', '#000000', now(), now())",
            phone.business.id,
            tenants=[neighbour.id],
        )
    touched = await books.pool.fetch(
        "UPDATE conversations SET status = 'archived' WHERE tenant_id = $1 RETURNING id",
        phone.business.id,
        tenants=[neighbour.id],
    )
    assert not touched
