"""Customers over real HTTP: who they are, who may be one person with whom, merging and taking it back; and
one contact for all ways to name a person, whoever comes first."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any

import pytest

from tests.gateway.conftest import Business, Person
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.real_time

_mobiles = count(80_000_000)


def brazilian() -> tuple[str, str]:
    """A new mobile number as WhatsApp may name it, and as people write it."""
    number = next(_mobiles)
    return f"5511{number}", f"55119{number}"


def customer_of(business: Business, number: str, channel: dict[str, Any] | None = None) -> dict[str, Any]:
    """The customer as the conversation with this number shows him."""
    params = {"search": number, **({"channel_id": channel["id"]} if channel else {})}
    [conversation] = business.owner.ok("GET", "/conversations", params=params)["items"]
    shown: dict[str, Any] = conversation["customer"]
    return shown


class Doubled:
    """One person on two numbers of ours: a contact and a customer for each."""

    def __init__(self, business: Business) -> None:
        self.number, newer = brazilian()
        self.other = business.connect()
        business.customer_writes(self.number, "hello", name="Maria")
        business.customer_writes(newer, "hello", name="55 11", channel=self.other)
        self.first = customer_of(business, self.number, business.channel)["id"]
        self.second = customer_of(business, newer, self.other)["id"]


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [each.result() for each in [pool.submit(call) for call in calls]]


def open_conversations(business: Business) -> list[dict[str, Any]]:
    params = {"status": "new,open,pending", "limit": 100}
    items: list[dict[str, Any]] = business.owner.ok("GET", "/conversations", params=params)["items"]
    return items


def started(business: Business, number: str) -> dict[str, Any]:
    return {"channel_id": business.channel["id"], "phone": f"+{number}", "name": "Maria"}


def conversations(business: Business) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = business.owner.ok("GET", "/conversations", params={"limit": 100})["items"]
    return items


def unread(business: Business, without: set[int]) -> int:
    """In all conversations but these."""
    return sum(each["unread_count"] for each in conversations(business) if each["id"] not in without)


def names(page: Sequence[dict[str, Any]]) -> list[str]:
    return [each["name"] for each in page]


# ------------------------------------------------------------------ one of them


def test_a_customer_comes_to_be_with_the_first_message(business: Business) -> None:
    """With the handle that he wrote from, also in the list and in his profile."""
    conversation = business.conversation("hello there")
    number = conversation["customer"]["name"].removeprefix("Customer ")
    customer = business.agent.ok("GET", f"/customers/{conversation['customer']['id']}")
    assert customer["phone"] == f"+{number}"
    assert customer["source"] == "whatsapp"
    assert customer["merged_into"] is None
    assert customer["handles"] == [
        {
            "platform": "whatsapp",
            "channel_id": business.channel["id"],
            "external_id": number,
            "display": f"Customer {number}",
        }
    ]
    assert customer in business.agent.ok("GET", "/customers", params={"search": number})["items"]
    profile = business.agent.ok("GET", f"/customers/{customer['id']}/profile")
    assert profile["customer"] == customer
    assert profile["conversations"] == {
        "counts": {"total": 1, "open": 1, "unread": 1},
        "newest": [conversation],
    }


def test_what_people_set_stays(business: Business) -> None:
    """A name given by hand is not overwritten by the platform's; what is left out is left alone; the
    conversation shows it."""
    conversation = business.conversation()
    customer = conversation["customer"]
    number = customer["name"].removeprefix("Customer ")
    path = f"/customers/{customer['id']}"
    body = {"name": "Mrs. Silva", "email": "Silva@Example.com", "attributes": {"vip": True}}
    changed = business.agent.ok("PATCH", path, body)
    assert (changed["name"], changed["email"], changed["attributes"]) == (
        "Mrs. Silva",
        "Silva@Example.com",
        {"vip": True},
    )
    business.agent.ok("PATCH", path, {"timezone": "America/Sao_Paulo", "locale": "pt-BR"})
    business.customer_writes(number, "again", name="Sparkling Unicorn")
    after = business.agent.ok("GET", path)
    assert (after["name"], after["timezone"], after["locale"]) == (
        "Mrs. Silva",
        "America/Sao_Paulo",
        "pt-BR",
    )
    assert (
        business.owner.ok("GET", f"/conversations/{conversation['id']}")["customer"]["name"] == "Mrs. Silva"
    )
    assert customer["id"] in [
        each["id"] for each in business.owner.ok("GET", "/customers", params={"search": "silva"})["items"]
    ]


def test_a_customer_can_be_made_before_he_writes(business: Business) -> None:
    body = {"name": "Omar", "phone": "050 123 4567", "country": "SA", "email": "omar@example.com"}
    key = {"Idempotency-Key": "omar"}
    made = business.agent.ok("POST", "/customers", body, headers=key)
    assert made["phone"] == "+966501234567"
    assert made["handles"] == []
    assert business.agent.ok("POST", "/customers", body, headers=key) == made
    changed = business.agent.ok("PATCH", f"/customers/{made['id']}", {"name": "Omar K.", "phone": None})
    assert changed == business.agent.ok("GET", f"/customers/{made['id']}")
    assert (changed["name"], changed["phone"]) == ("Omar K.", None)


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"phone": "12"},
        {"email": "nobody"},
        {"timezone": "Mars/Olympus"},
        {"locale": "Portuguese!"},
        {"attributes": {"long": "x" * 20_000}},
        {"named_by_hand": False},
    ],
)
def test_what_cannot_be_is_refused_with_the_field(business: Business, body: dict[str, Any]) -> None:
    made = business.owner.ok("POST", "/customers", {"name": "Lina"})
    answer = business.owner.call("PATCH", f"/customers/{made['id']}", body)
    assert answer.status_code == 422
    assert list(answer.json()["errors"]) == list(body)
    assert business.owner.ok("GET", f"/customers/{made['id']}") == made


def test_pages_walk_all_customers_once(new_business: Callable[[], Business]) -> None:
    business = new_business()
    for number in range(5):
        business.owner.ok("POST", "/customers", {"name": f"customer {number}"})
    first = business.owner.ok("GET", "/customers", params={"limit": 3})
    second = business.owner.ok("GET", "/customers", params={"limit": 3, "cursor": first["next_cursor"]})
    assert names(first["items"] + second["items"]) == [f"customer {number}" for number in (4, 3, 2, 1, 0)]
    assert second["next_cursor"] is None


def test_another_tenants_customers_do_not_exist(business: Business, neighbour: Business) -> None:
    made = neighbour.owner.ok("POST", "/customers", {"name": "Theirs"})["id"]
    ours = business.owner.ok("POST", "/customers", {"name": "Ours"})["id"]
    assert business.owner.refused("GET", f"/customers/{made}") == (404, "not_found")
    assert business.owner.refused("GET", f"/customers/{made}/profile") == (404, "not_found")
    assert business.owner.refused("GET", f"/customers/{made}/candidates") == (404, "not_found")
    assert business.owner.refused("PATCH", f"/customers/{made}", {"name": "Mine"}) == (404, "not_found")
    assert business.owner.refused("POST", f"/customers/{ours}/merge", {"customer_id": made}) == (
        404,
        "not_found",
    )


# ------------------------------------------------------------------ candidates


def test_who_shares_a_number_or_an_address_is_suggested(new_business: Callable[[], Business]) -> None:
    """At once, and with the reason; nobody is merged by that."""
    business = new_business()
    maria = Doubled(business)
    first, second = maria.first, maria.second
    made = business.owner.ok("POST", "/customers", {"name": "From the shop", "phone": f"+{maria.number}"})[
        "id"
    ]
    business.owner.ok("PATCH", f"/customers/{made}", {"email": "maria@example.com"})
    business.owner.ok("PATCH", f"/customers/{second}", {"email": "MARIA@example.com"})
    stranger = business.owner.ok("POST", "/customers", {"name": "Somebody", "email": "x@example.com"})["id"]

    def suggested(customer_id: int) -> dict[int, list[str]]:
        found = business.agent.ok("GET", f"/customers/{customer_id}/candidates")
        return {each["customer"]["id"]: each["reasons"] for each in found}

    assert suggested(first) == {second: ["phone_variant"], made: ["phone"]}
    assert suggested(second) == {first: ["phone_variant"], made: ["email", "phone_variant"]}
    assert suggested(stranger) == {}
    business.owner.ok("POST", f"/customers/{first}/merge", {"customer_id": second})
    assert suggested(first) == suggested(second) == {made: ["email", "phone"]}
    assert suggested(made) == {first: ["email", "phone", "phone_variant"]}


# ------------------------------------------------------------------ merging


def test_a_merge_shows_one_person_and_can_be_undone(new_business: Callable[[], Business]) -> None:
    """Everywhere at once: lists, the single conversation, the profile, events; and afterwards all is as it
    was."""
    business = new_business()
    owner = business.owner
    maria = Doubled(business)
    first, second = maria.first, maria.second
    before = {each["id"]: each for each in open_conversations(business)}
    lonely = owner.ok("GET", f"/customers/{second}")
    head = owner.ok("GET", "/events", params={"since": 0, "limit": 1})["head"]

    result = owner.ok("POST", f"/customers/{first}/merge", {"customer_id": second})
    assert (result["merge"]["survivor_id"], result["merge"]["merged_id"]) == (first, second)
    assert result["merge"]["by_user"]["name"] == "Owner"
    assert result["customer"]["id"] == first
    shown = [each["customer"] for each in open_conversations(business)]
    assert [(each["id"], each["name"]) for each in shown] == [(first, "Maria")] * 2
    assert {each["merged_id"] for each in shown} == {None, second}
    for number in before:
        assert owner.ok("GET", f"/conversations/{number}")["customer"]["id"] == first
    profile = owner.ok("GET", f"/customers/{second}/profile")
    assert profile == owner.ok("GET", f"/customers/{first}/profile")
    assert (profile["customer"]["id"], [each["id"] for each in profile["members"]]) == (first, [second])
    assert {each["id"] for each in profile["conversations"]["newest"]} == set(before)
    assert profile["conversations"]["counts"]["total"] == 2
    assert {each["channel_id"] for each in profile["handles"]} == {
        each["channel"]["id"] for each in before.values()
    }
    assert first in [
        each["id"] for each in owner.ok("GET", "/customers", params={"search": "55 11"})["items"]
    ]
    assert second not in [each["id"] for each in owner.ok("GET", "/customers")["items"]]

    undone = owner.ok("POST", f"/customers/{second}/unmerge")
    assert undone["merge"]["id"] == result["merge"]["id"]
    assert undone["merge"]["undone_at"] is not None
    assert owner.ok("GET", f"/customers/{second}") == lonely
    after = {each["id"]: each["customer"] for each in open_conversations(business)}
    assert after == {number: each["customer"] for number, each in before.items()}
    assert owner.ok("GET", f"/customers/{first}/profile")["members"] == []

    told = owner.ok("GET", "/events", params={"since": head, "limit": 100})["items"]
    about = [(each["name"], each["data"]["customer"]["id"]) for each in told if "customer" in each["data"]]
    assert about == [("customer.merged", second), ("customer.unmerged", second)]
    assert [each["name"] for each in told if "conversation" in each["data"]] == ["conversation.updated"] * 2
    assert owner.ok("GET", "/customers/merges", params={"customer_id": first})["items"] == [undone["merge"]]


def test_events_applied_to_an_old_inbox_give_the_fresh_one(new_business: Callable[[], Business]) -> None:
    """Also for conversations that are told of by nothing but their customer: as the push page says."""
    business = new_business()
    owner = business.owner
    maria = Doubled(business)
    for conversation in open_conversations(business):
        owner.ok("PATCH", f"/conversations/{conversation['id']}/status", {"status": "archived"})
    business.customer_writes(maria.number, "once more", name="Maria")
    business.customer_writes(maria.number, "here too", channel=maria.other, name="55 11")
    inbox = {each["id"]: each for each in owner.ok("GET", "/conversations")["items"]}
    assert len(inbox) == 4
    cursor = owner.ok("GET", "/events", params={"since": 0, "limit": 1})["head"]

    def applied() -> dict[int, Any]:
        nonlocal cursor
        for event in owner.ok("GET", "/events", params={"since": cursor, "limit": 500})["items"]:
            cursor, data = event["cursor"], event["data"]
            if "conversation" in data:
                inbox[data["conversation"]["id"]] = data["conversation"]
            if "customer" in data:
                apply_customer(inbox, data["customer"])
        return inbox

    def fresh() -> dict[int, Any]:
        return {each["id"]: each for each in owner.ok("GET", "/conversations")["items"]}

    owner.ok("POST", f"/customers/{maria.first}/merge", {"customer_id": maria.second})
    assert applied() == fresh()
    business.customer_writes(maria.number, "a new name", name="Maria Silva")
    wait_for(lambda: {each["customer"]["name"] for each in fresh().values()} == {"Maria Silva"})
    assert applied() == fresh()
    owner.ok("PATCH", f"/customers/{maria.second}", {"name": "Her other number"})
    owner.ok("POST", f"/customers/{maria.second}/unmerge")
    assert applied() == fresh()
    owner.ok("POST", f"/customers/{maria.second}/merge", {"customer_id": maria.first})
    assert applied() == fresh()


def apply_customer(inbox: dict[int, Any], customer: dict[str, Any]) -> None:
    for conversation in inbox.values():
        shown = conversation["customer"]
        if (shown["merged_id"] or shown["id"]) == customer["id"]:
            into = customer["merged_into"]
            conversation["customer"] = {
                name: (into or customer)[name] for name in ("id", "name", "avatar_url")
            } | {"merged_id": customer["id"] if into else None}


def test_a_merged_persons_new_name_is_shown_everywhere(new_business: Callable[[], Business]) -> None:
    """Whether a person or the platform gives it."""
    business = new_business()
    maria = Doubled(business)
    first, second = maria.first, maria.second
    business.owner.ok("POST", f"/customers/{first}/merge", {"customer_id": second})

    def shown() -> set[str]:
        return {each["customer"]["name"] for each in open_conversations(business)}

    business.customer_writes(maria.number, "a new name", name="Maria Silva")
    wait_for(lambda: shown() == {"Maria Silva"})
    business.owner.ok("PATCH", f"/customers/{first}", {"name": "Mrs. Silva"})
    wait_for(lambda: shown() == {"Mrs. Silva"})
    business.owner.ok("PATCH", f"/customers/{second}", {"name": "Her other number"})
    assert shown() == {"Mrs. Silva"}
    business.owner.ok("POST", f"/customers/{second}/unmerge")
    assert shown() == {"Mrs. Silva", "Her other number"}


def test_persons_are_merged_as_a_whole_and_taken_apart_in_any_order(business: Business) -> None:
    """No chains: everybody is shown as the one who survives. Undoing one merge leaves the others."""
    owner = business.owner
    a, b, c, d = (owner.ok("POST", "/customers", {"name": name})["id"] for name in "abcd")

    def merge(survivor: int, merged: int) -> None:
        owner.ok("POST", f"/customers/{survivor}/merge", {"customer_id": merged})

    def into() -> list[int | None]:
        found = [owner.ok("GET", f"/customers/{each}")["merged_into"] for each in (a, b, c, d)]
        return [each["id"] if each else None for each in found]

    merge(b, c)
    merge(d, b)
    merge(a, c)
    assert into() == [None, a, a, a]
    for one, other in ((a, c), (c, a), (b, d), (a, a)):
        path = f"/customers/{one}/merge"
        assert owner.refused("POST", path, {"customer_id": other}) == (409, "already_merged")
    assert owner.ok("PATCH", f"/customers/{a}", {"name": "A"})["name"] == "A"
    assert owner.ok("GET", f"/customers/{c}")["merged_into"]["name"] == "A"
    owner.ok("POST", f"/customers/{b}/unmerge")
    assert into() == [None, None, b, a]
    owner.ok("POST", f"/customers/{d}/unmerge")
    owner.ok("POST", f"/customers/{c}/unmerge")
    assert into() == [None, None, None, None]
    assert owner.refused("POST", f"/customers/{c}/unmerge") == (409, "not_merged")
    assert owner.refused("POST", "/customers/5/unmerge") == (404, "not_found")


def test_agents_see_and_change_customers_and_merge_none(business: Business) -> None:
    """And their profile shows only the conversations that they may see."""
    conversation = business.conversation()
    customer_id = conversation["customer"]["id"]
    business.owner.ok(
        "POST", f"/conversations/{conversation['id']}/assign", {"user_id": business.owner.user_id}
    )
    profile = business.agent.ok("GET", f"/customers/{customer_id}/profile")
    assert profile["conversations"] == {"counts": {"total": 0, "open": 0, "unread": 0}, "newest": []}
    made = business.agent.ok("POST", "/customers", {"name": "Nour"})["id"]
    path = f"/customers/{customer_id}"
    assert business.agent.refused("POST", f"{path}/merge", {"customer_id": made}) == (403, "forbidden")
    assert business.agent.refused("POST", f"{path}/unmerge") == (403, "forbidden")


# ------------------------------------------------------------------ races


def test_merges_of_the_same_two_are_decided_one_after_the_other(business: Business) -> None:
    """In both directions at once: one stands, all others hear that they are one person already."""
    owner = business.owner
    for _ in range(3):
        a, b = (owner.ok("POST", "/customers", {"name": name})["id"] for name in "ab")
        answers = at_once(*[merging(owner, *pair) for pair in ((a, b), (b, a), (a, b), (b, a))])
        assert sorted(each.status_code for each in answers) == [201, 409, 409, 409]
        assert {each.json()["code"] for each in answers if each.status_code == 409} == {"already_merged"}
        roots = {owner.ok("GET", f"/customers/{each}/profile")["customer"]["id"] for each in (a, b)}
        assert len(roots) == 1


def merging(person: Person, survivor: int, merged: int) -> Callable[[], Any]:
    return lambda: person.call("POST", f"/customers/{survivor}/merge", {"customer_id": merged})


def test_merging_and_undoing_while_customers_write(new_business: Callable[[], Business]) -> None:
    """Every message is there, each contact has one open conversation, and the last word counts everywhere."""
    business = new_business()
    owner = business.owner
    maria = Doubled(business)
    first, second = maria.first, maria.second

    def back_and_forth() -> None:
        for _ in range(4):
            owner.ok("POST", f"/customers/{first}/merge", {"customer_id": second})
            owner.ok("POST", f"/customers/{second}/unmerge")
        owner.ok("POST", f"/customers/{first}/merge", {"customer_id": second})

    def write(channel: dict[str, Any]) -> Callable[[], None]:
        def writes() -> None:
            for number in range(12):
                business.customer_writes(maria.number, f"message {number}", channel=channel, name="Maria")

        return writes

    at_once(back_and_forth, write(business.channel), write(maria.other))
    shown = open_conversations(business)
    assert [each["message_count"] for each in shown] == [13, 13]
    assert [each["customer"]["id"] for each in shown] == [first, first]
    last: dict[int, Any] = {}
    cursor = 0
    while True:
        page = owner.ok("GET", "/events", params={"since": cursor, "limit": 500})
        for event in page["items"]:
            if "conversation" in event["data"]:
                last[event["data"]["conversation"]["id"]] = event["data"]["conversation"]
        if not page["items"]:
            break
        cursor = page["items"][-1]["cursor"]
    assert last == {each["id"]: each for each in shown}


def test_two_ways_to_write_a_number_are_one_contact(new_business: Callable[[], Business]) -> None:
    """Written to by one, written from by the other, in both orders: the same conversation."""
    business = new_business()
    for theirs, ours in (brazilian(), brazilian()[::-1]):
        business.customer_writes(theirs, "hello")
        body = {"channel_id": business.channel["id"], "phone": f"+{ours}"}
        started = business.owner.call("POST", "/conversations/start", body)
        assert started.status_code == 200
        assert started.json()["data"]["created"] is False
    older, newer = brazilian()
    body = {"channel_id": business.channel["id"], "phone": f"+{newer}"}
    business.owner.ok("POST", "/conversations/start", body)
    business.customer_writes(older, "I am known by my old number")
    assert len(open_conversations(business)) == 3
    for number in (older, newer):
        assert customer_of(business, number)["id"] == customer_of(business, older)["id"]


def test_the_forgotten_form_of_a_number_is_understood(business: Business) -> None:
    """Mexico's +52 1 is no number any more for the library."""
    number = f"55{next(_mobiles)}"
    business.customer_writes(f"521{number}", "hola")
    body = {"channel_id": business.channel["id"], "phone": f"+52 1 {number}"}
    assert business.owner.ok("POST", "/conversations/start", body)["created"] is False


def test_a_contact_has_one_open_conversation_whatever_names_come_at_once(
    new_business: Callable[[], Business],
) -> None:
    """Two ways to write a number, a user id beside it, and the business itself, all in the same moment."""
    business = new_business()
    for number in range(5):
        older, newer = brazilian()
        user_id = f"BR.{newer}"
        at_once(
            partial(business.customer_writes, older, "one", user_id=user_id),
            partial(business.customer_writes, newer, "two", user_id=user_id),
            partial(business.owner.ok, "POST", "/conversations/start", started(business, newer)),
            partial(business.customer_writes, older, "three"),
            partial(business.customer_writes, newer, "four"),
        )
        shown = open_conversations(business)
        assert len(shown) == number + 1
        assert max(shown, key=lambda each: each["id"])["message_count"] == 4


def test_two_names_that_nobody_has_linked_yet_are_one_contact_once_they_are(
    new_business: Callable[[], Business],
) -> None:
    """A user id alone and a number alone are two contacts for whoever meets them in that order; a message
    that carries both makes them one. Nothing is lost, and one conversation is open."""
    business = new_business()
    for number in range(5):
        older, newer = brazilian()
        user_id = f"BR.{newer}"
        known = {each["id"] for each in conversations(business)}
        at_once(
            partial(business.customer_writes, None, "one", user_id=user_id),
            partial(business.owner.ok, "POST", "/conversations/start", started(business, newer)),
            partial(business.customer_writes, older, "two"),
            partial(business.customer_writes, older, "three", user_id=user_id),
        )
        business.customer_writes(newer, "four", user_id=user_id)
        wait_for(lambda expected=number + 1: len(open_conversations(business)) == expected)  # type: ignore[misc]
        wait_for(lambda seen=known: unread(business, seen) == 4)  # type: ignore[misc]


def test_two_contacts_become_one_with_one_open_conversation(new_business: Callable[[], Business]) -> None:
    """Seen from outside: the open conversation says that there is another and counts what is unread there,
    the other is closed and still answers under its id, and both show one customer with all names."""
    business = new_business()
    older, newer = brazilian()
    user_id = f"BR.{newer}"
    business.customer_writes(None, "by my user name", user_id=user_id)
    business.customer_writes(older, "by my number")
    first, second = sorted(each["id"] for each in open_conversations(business))
    business.customer_writes(newer, "by both", user_id=user_id)
    wait_for(lambda: [each["id"] for each in open_conversations(business)] == [first])
    wait_for(lambda: business.owner.ok("GET", f"/conversations/{first}")["unread_count"] == 3)
    messages = business.owner.ok("GET", f"/conversations/{first}/messages")["items"]
    [said] = [each for each in messages if each["type"] == "system"]
    assert said["content"] == {"kind": "conversation_joined", "body": "", "conversation_id": second}
    closed = business.owner.ok("GET", f"/conversations/{second}")
    assert (closed["status"], closed["unread_count"], closed["message_count"]) == ("resolved", 0, 2)
    kept = business.owner.ok("GET", f"/conversations/{first}")["customer"]["id"]
    wait_for(lambda: business.owner.ok("GET", f"/conversations/{second}")["customer"]["id"] == kept)
    names = {each["external_id"] for each in business.owner.ok("GET", f"/customers/{kept}")["handles"]}
    assert names == {user_id, older, newer}
    status = business.owner.refused("PATCH", f"/conversations/{second}/status", {"status": "open"})
    assert status == (409, "conflict")
    answer = {"type": "text", "content": "hello", "force": True}
    assert business.owner.refused("POST", f"/conversations/{second}/messages", answer)[0] == 409
    business.customer_writes(older, "and again")
    assert [each["id"] for each in open_conversations(business)] == [first]


def test_a_new_number_and_who_writes_from_it_at_once(new_business: Callable[[], Business]) -> None:
    """The platform says that a customer has a new number while he writes from it: nothing is lost, each
    contact has one open conversation, and where the two could not become one contact they are suggested as
    one person."""
    business = new_business()
    for number in range(4):
        old, new = (f"9665{next(_mobiles)}" for _ in range(2))
        business.customer_writes(old, "hello")
        at_once(
            partial(business.deliver, number_changed(business, old, new), business.channel),
            partial(business.customer_writes, new, "from my new number"),
            partial(business.customer_writes, old, "and from the old one"),
        )
        customers = business.owner.ok("GET", "/customers", params={"search": new})["items"]
        if len(customers) == 2:
            found = business.owner.ok("GET", f"/customers/{customers[0]['id']}/candidates")
            assert [each["customer"]["id"] for each in found] == [customers[1]["id"]]
        count_of = sum(
            each["message_count"]
            for each in open_conversations(business)
            if each["customer"]["id"] in {one["id"] for one in customers}
        )
        assert count_of == 4, number


def number_changed(business: Business, old: str, new: str) -> dict[str, Any]:
    system = {"body": f"changed from {old} to {new}", "wa_id": new, "type": "user_changed_number"}
    message = {
        "from": old,
        "id": f"wamid.changed.{new}",
        "timestamp": "1700000000",
        "type": "system",
        "system": system,
    }
    return {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "1", "phone_number_id": business.number_id},
        "messages": [message],
    }


def wait_for(holds: Callable[[], bool]) -> None:
    """What follows a committed change within moments."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < end, "it does not come to hold"
        time.sleep(0.05)
