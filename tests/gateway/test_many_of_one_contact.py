"""A delivery with more messages of one contact than its mailbox holds, at the real server."""

import time
from collections.abc import Callable
from typing import Any

from tests.gateway.conftest import Business, Person

TEXTS = [f"message {number}" for number in range(1_000)]


def conversation_texts(person: Person, number: str) -> list[str]:
    """All texts of the customer's only conversation, oldest first."""
    (conversation,) = person.ok("GET", "/conversations", params={"search": number})["items"]
    found: list[dict[str, Any]] = []
    cursor = None
    while cursor is not None or not found:
        params = {"limit": 100} | ({} if cursor is None else {"cursor": cursor})
        page = person.ok("GET", f"/conversations/{conversation['id']}/messages", params=params)
        found += page["items"]
        cursor = page["next_cursor"]
    found.sort(key=lambda one: one["seq"])
    assert [one["seq"] for one in found] == list(range(1, len(found) + 1))
    return [one["content"]["body"] for one in found]


def test_a_thousand_messages_of_one_contact_are_taken_in_order_and_once(
    new_business: Callable[[], Business],
) -> None:
    """Answered 200 with all of them stored, and again when the platform repeats it."""
    business = new_business()
    number = "966511223344"
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "966500000000", "phone_number_id": business.number_id},
        "contacts": [{"profile": {"name": "Talkative"}, "wa_id": number}],
        "messages": [
            {
                "from": number,
                "id": f"wamid.{business.number_id}.many.{place}",
                "timestamp": str(int(time.time())),
                "type": "text",
                "text": {"body": text},
            }
            for place, text in enumerate(TEXTS)
        ],
    }
    business.customer_writes(number, "first of all")
    for _ in range(2):
        business.deliver(value, business.channel)
        assert conversation_texts(business.owner, number) == ["first of all", *TEXTS]
