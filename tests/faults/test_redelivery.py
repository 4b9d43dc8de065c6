"""Platforms repeat and post at the same instant: one message, one contact, one conversation."""

import trio

from adapters.simulators.builders import Person
from storage.databases import DatabaseServer
from tests.fixtures.system import Line, screen, until
from tests.ledger import books_of, check_pushed

COPIES = 10


async def post_all(phone: Line, bodies: list[bytes]) -> None:
    """All at once, each on a connection of its own; all must be acknowledged."""
    async with trio.open_nursery() as nursery:
        for body in bodies:
            nursery.start_soon(phone.deliver, body)


async def test_ten_copies_are_one_message(phone: Line, database: DatabaseServer) -> None:
    """One after the other, then ten of another at once: all acknowledged, each stored and pushed once."""
    person = Person(name="Ida", wa_id=phone.new_customer())
    first = phone.text_webhook(person, f"wamid.A{person.wa_id}", "Again and again")
    second = phone.text_webhook(person, f"wamid.B{person.wa_id}", "All at once")
    since = phone.server.log_size()
    async with screen(phone.business) as desk:
        for _ in range(COPIES):
            await post_all(phone, [first])
        await post_all(phone, [second] * COPIES)
        books = await books_of(phone.business, phone.sim, phone.channel_id, database)
        rows = await books.messages()
        assert [row["platform_message_id"][:7] for row in rows] == ["wamid.A", "wamid.B"]
        await desk.event("message.received", lambda data: data["message"]["id"] == rows[1]["id"])
        check_pushed(desk, rows)
        await books.check_conversations(rows)
        await books.check_events(rows)

    async def told() -> bool:
        counted: list[int] = [one.get("duplicates", 0) for one in phone.server.log_lines(since)]
        return sum(counted) == 2 * (COPIES - 1)

    await until("the log says how many were duplicates", told)


async def test_two_deliveries_of_a_new_contact_at_once_open_one_conversation(
    phone: Line, database: DatabaseServer
) -> None:
    """Ten new customers write twice at the same instant: ten conversations of two messages."""
    people = [Person(name=f"Twin {n}", wa_id=phone.new_customer()) for n in range(10)]
    bodies = [
        phone.text_webhook(person, f"wamid.{n}{person.wa_id}", f"{n}") for person in people for n in (1, 2)
    ]
    await post_all(phone, bodies)
    books = await books_of(phone.business, phone.sim, phone.channel_id, database)
    rows = await books.messages()
    assert len(rows) == 20
    assert len({row["conversation_id"] for row in rows}) == 10
    assert len({row["sender_id"] for row in rows}) == 10
    await books.check_conversations(rows)


async def test_two_handles_of_one_person_at_once_are_one_contact(
    phone: Line, database: DatabaseServer
) -> None:
    """One delivery names number and user id, the other the user id alone: one conversation, whoever wins."""
    number = phone.new_customer()
    whole = Person(name="Robin", wa_id=number, user_id=f"US.{number.zfill(20)}")
    hidden = Person(name="Robin", user_id=whole.user_id, username="robin")
    for n in range(5):
        await post_all(
            phone,
            [
                phone.text_webhook(whole, f"wamid.W{n}{number}", f"shown {n}"),
                phone.text_webhook(hidden, f"wamid.H{n}{number}", f"hidden {n}"),
            ],
        )
    books = await books_of(phone.business, phone.sim, phone.channel_id, database)
    rows = await books.messages()
    assert len(rows) == 10
    assert len({row["sender_id"] for row in rows}) == 1
    assert len({row["conversation_id"] for row in rows}) == 1
    await books.check_conversations(rows)
