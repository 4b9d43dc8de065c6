"""SMS from outside: people text, an agent answers, through the real server and database and the played
Twilio."""

from collections.abc import AsyncIterator
from itertools import count
from urllib.parse import urlencode, urlsplit

import httpx
import pytest
from msgspec import Struct, structs

from adapters.port import Play
from adapters.simulators import Fault
from adapters.simulators.sms.platform import SmsSimulator
from adapters.simulators.sms.standing import SmsStandIn
from adapters.sms.signing import signature
from tests.fixtures.system import PLAIN, QUICK, Agent, Business, Json, until
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.real_time

_numbers = count(1)
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Line(Struct, kw_only=True):
    """A toll-free number, played. `url` is where its webhooks go; `name` and `service` are senders of the
    same account that are not connected."""

    sim: SmsSimulator
    agent: Agent
    channel_id: int
    keys: dict[str, str]
    url: str
    name: str
    service: str

    def person(self) -> str:
        return f"1415555{next(_numbers):04d}"

    async def told(self, sid: str) -> Json:
        """The conversation that this message is in."""

        async def found() -> Json | None:
            for each in await self.agent.items("conversations", channel_id=self.channel_id):
                messages = await self.agent.messages(each["id"])
                if any(message["platform_message_id"] == sid for message in messages):
                    return each
            return None

        conversation: Json = await until(f"{sid} is stored", found)
        return conversation

    async def send(self, conversation: Json, body: Json) -> Json:
        made: Json = await self.agent.post(f"conversations/{conversation['id']}/messages", body)
        return made

    async def refused(self, path: str, body: Json) -> tuple[int, str]:
        answer = await self.agent.http.post(path, json=body)
        return answer.status_code, answer.json()["code"]

    async def post(self, url: str, form: dict[str, str]) -> httpx.Response:
        """A signed delivery, written by hand."""
        signed = signature(self.keys["auth_token"], url, form.items())
        async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, **PLAIN) as client:
            return await client.post(
                url, content=urlencode(form), headers={**_FORM, "X-Twilio-Signature": signed}
            )


def connecting(keys: dict[str, str], base_url: str, **changes: object) -> Json:
    return {
        "platform": "sms",
        "name": f"sms {next(_numbers)}",
        "external_id": keys["sender"],
        "business_account_id": keys["account_sid"],
        "credentials": {"auth_token": keys["auth_token"]},
        "settings": {"base_url": base_url, "segments_per_second": 100},
        **changes,
    }


@pytest.fixture
async def line(own_line: Business) -> AsyncIterator[Line]:
    keys = SmsStandIn().new_keys()
    port = own_line.server.simulator_ports_free.pop()
    named = {**keys, "sender": f"SHOP{next(_numbers)}"}
    service = {**keys, "sender": f"MG{next(_numbers):032x}"}
    accounts = list(SmsStandIn().simulator(Play(accounts=[keys, named, service])).accounts.values())
    try:
        async with (
            SmsSimulator(accounts, settings=QUICK).running(port=port) as sim,
            own_line.agent() as agent,
        ):
            connected = await agent.post("channels", connecting(keys, sim.base_url))
            await sim.connect(connected["webhook_url"])
            yield Line(
                sim=sim,
                agent=agent,
                channel_id=connected["id"],
                keys=keys,
                url=connected["webhook_url"],
                name=named["sender"],
                service=service["sender"],
            )
            await agent.delete(f"channels/{connected['id']}")
    finally:
        own_line.server.simulator_ports_free.append(port)


async def test_a_text_is_answered_and_the_answer_is_delivered(line: Line) -> None:
    """Its encoding and its parts are shown; the callback that tells is signed with our message's id in its
    address."""
    conversation = await line.told(line.sim.say(line.person(), "Is this in stock?"))
    assert conversation["customer"]["name"].startswith("+1415555")
    body = "نعم، متوفر. " * 8
    sent = await line.send(conversation, {"type": "text", "content": body})
    assert sent["content"]["segments"] == {"encoding": "UCS-2", "count": 2}
    await line.agent.reaches(sent, "delivered")
    (send,) = line.sim.ledger.sends
    assert send.callback_data == str(sent["id"])
    assert (line.sim.ledger.payload(send.id) or {})["Body"] == body
    await line.sim.wait_quiet()
    assert not [fact for fact in line.sim.ledger.facts if fact.acknowledged_at is None]


async def test_a_reaction_is_refused_before_it_is_stored(line: Line) -> None:
    """By both routes, with the platform's sentence; no message comes of it."""
    conversation = await line.told(line.sim.say(line.person(), "Is this in stock?"))
    (message,) = await line.agent.messages(conversation["id"])
    whole = {"type": "reaction", "reaction": {"message_id": message["id"], "emoji": "👍"}}
    for path, body in (
        (f"messages/{message['id']}/reaction", {"emoji": "👍"}),
        (f"conversations/{conversation['id']}/messages", whole),
    ):
        answer = await line.agent.call("POST", path, body)
        assert answer.status_code == 422
        assert [each for found in answer.json()["errors"].values() for each in found] == [
            "SMS carries no reactions."
        ]
    assert await line.agent.messages(conversation["id"]) == [message]


async def test_files_are_fetched_with_the_accounts_credentials(line: Line) -> None:
    """Through the redirect, both of them."""
    sid = line.sim.send(line.sim.cast.adopt(line.person()), "images")
    conversation = await line.told(sid)

    async def stored() -> Json | None:
        (message,) = await line.agent.messages(conversation["id"])
        files = message["attachments"]
        return message if [each["state"] for each in files] == ["stored", "stored"] else None

    message = await until("both files are stored", stored)
    assert {each["media_type"] for each in message["attachments"]} == {"image/png"}


async def test_an_unknown_outcome_is_settled_by_the_callback(line: Line) -> None:
    """The answer is lost; the platform had taken it. It goes out once."""
    conversation = await line.told(line.sim.say(line.person(), "Hello"))
    line.sim.fault(Fault(kind="reset", times=1, accepts=True))
    sent = await line.send(conversation, {"type": "text", "content": "Just once"})
    await line.agent.reaches(sent, "delivered")
    assert len(line.sim.ledger.sends) == 1


async def test_who_opts_out_is_sent_nothing_until_they_opt_in(line: Line) -> None:
    person = line.person()
    conversation = await line.told(line.sim.say(person, "Hello"))
    path = f"conversations/{conversation['id']}"
    await line.told(line.sim.say(person, "إيقاف"))
    assert (await line.agent.get(path))["opted_out_at"] is not None
    hello = {"type": "text", "content": "Hello?"}
    assert await line.refused(f"{path}/messages", hello) == (409, "opted_out")
    start = {"channel_id": line.channel_id, "phone": f"+{person}", "message": hello}
    assert await line.refused("conversations/start", start) == (409, "opted_out")
    await line.told(line.sim.say(person, "ابدأ"))
    assert (await line.agent.get(path))["opted_out_at"] is None
    await line.agent.reaches(await line.send(conversation, hello), "delivered")
    assert len(line.sim.ledger.sends) == 1


async def test_the_platform_may_know_of_an_opt_out_that_we_do_not(line: Line) -> None:
    """21610: the message fails with a sentence, and the next one is not even tried."""
    person = line.person()
    conversation = await line.told(line.sim.say(person, "Hello"))
    line.sim.api.opted_out.add((line.keys["sender"], person))
    sent = await line.send(conversation, {"type": "text", "content": "Hello?"})
    failed = await line.agent.reaches(sent, "failed")
    assert failed["error"]["platform_code"] == "21610"
    hello = {"type": "text", "content": "Hello?"}
    assert await line.refused(f"conversations/{conversation['id']}/messages", hello) == (409, "opted_out")


async def test_the_answer_to_a_delivery_is_what_the_platform_understands(line: Line) -> None:
    """An empty TwiML document, by the lane and by the ordinary way, to new deliveries and repeated ones; the
    address is signed as it was written."""
    form = {
        "MessageSid": f"SM{next(_numbers):032x}",
        "AccountSid": line.keys["account_sid"],
        "SmsStatus": "received",
        "From": "+14155559999",
        "To": line.keys["sender"],
        "Body": "Hello",
    }
    split = urlsplit(line.url)
    spelled = f"{split.scheme}://{split.netloc}{split.path.replace('/sms/', '/s%6ds/')}"
    for url in (line.url, f"{line.url}?tenant=%2B1&x=y", spelled):
        answer = await line.post(url, form)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/xml"
        assert answer.text == '<?xml version="1.0" encoding="UTF-8"?><Response/>'
    forged = await line.post(line.url.replace("127.0.0.1", "localhost"), form)
    assert forged.status_code == 200  # another name of ours: it is the Host header that was signed
    answer = await line.post(line.url, {**form, "To": "+15005559999"})
    assert answer.status_code == 200  # authentic, for a number that nobody has connected: parked
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, **PLAIN) as client:
        unsigned = await client.post(line.url, content=urlencode(form), headers=_FORM)
    assert (unsigned.status_code, unsigned.json()["code"]) == (401, "bad_signature")


async def test_a_name_only_sends(line: Line) -> None:
    """The channel says so; what asks for an answer is refused with a sentence. Statuses come, since the
    callback's address says whose they are."""
    keys = {**line.keys, "sender": line.name}
    channel = await line.agent.post("channels", connecting(keys, line.sim.base_url))
    assert channel["one_way"] is True
    try:
        person = line.sim.cast.adopt(line.person())
        start = {"channel_id": channel["id"], "phone": f"+{person.key}"}
        choices = {
            "type": "interactive",
            "interactive": {"kind": "buttons", "body": "Which?", "options": [{"id": "a", "title": "Red"}]},
        }
        assert await line.refused("conversations/start", {**start, "message": choices}) == (409, "one_way")
        hello = {"type": "text", "content": "Your parcel is here."}
        started = await line.agent.post("conversations/start", {**start, "message": hello})
        await line.agent.reaches(started["message"], "delivered")
    finally:
        await line.agent.delete(f"channels/{channel['id']}")


async def test_a_service_is_written_to_by_any_of_its_numbers(line: Line) -> None:
    """It is connected by its own id; what its numbers hear comes to it, and so do the statuses of what it
    sends by whichever of them."""
    keys = {**line.keys, "sender": line.service}
    channel = await line.agent.post("channels", connecting(keys, line.sim.base_url))
    await line.sim.connect(channel["webhook_url"], line.service)
    ours = structs.replace(line, channel_id=channel["id"])
    try:
        said = line.sim.say(line.person(), "Hello", account_id=line.service)
        conversation = await ours.told(said)
        assert conversation["channel"]["id"] == channel["id"]
        await line.agent.reaches(
            await ours.send(conversation, {"type": "text", "content": "Hi"}), "delivered"
        )
        body = line.sim.ledger.payload(line.sim.ledger.sends[-1].id) or {}
        assert (body["MessagingServiceSid"], "From" in body) == (line.service, False)
    finally:
        await line.agent.delete(f"channels/{channel['id']}")


async def test_an_account_needs_its_sid_and_a_sender_that_can_be_one(line: Line) -> None:
    body = connecting({**line.keys, "sender": "+15005550123"}, line.sim.base_url)
    answer = await line.agent.http.post("channels", json={**body, "business_account_id": None})
    assert (answer.status_code, list(answer.json()["errors"])) == (422, ["business_account_id"])
    answer = await line.agent.http.post("channels", json={**body, "external_id": "NAMETHATISTOOLONG"})
    assert (answer.status_code, list(answer.json()["errors"])) == (422, ["external_id"])
