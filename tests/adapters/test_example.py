"""The example of an adapter in a package of its own: what adapters/README.md shows works."""

import hmac
import json
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from adapters import registry
from adapters.guard import Guard
from adapters.port import Accepted, Account, Adapter, Declined, ErrorClass, Tools
from adapters.simulators.http import Request, Response
from engine.domain.inbound import MessageReceived, Unsupported
from engine.domain.outbound import OutboxItem, SendText
from engine.errors import InvalidInput
from engine.ports import Endpoint, WebhookRequest
from tests.adapters.contract.files import Files
from tests.adapters.turns import AtOnce
from tests.simulators.receiver import listening

EXAMPLE = Path(__file__).parents[2] / "examples" / "pigeon"


@pytest.fixture
def pigeon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Adapter]:
    """As the registry finds it by the entry point in the example's pyproject.toml."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    assert {"name", "version", "dependencies"} <= set(project)
    ((name, value),) = project["entry-points"][registry.ENTRY_POINTS].items()
    entry = EntryPoint(name=name, value=value, group=registry.ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    registry.adapters.cache_clear()
    yield registry.adapter_of("pigeon")
    registry.adapters.cache_clear()


def _request(body: bytes, secret: str) -> WebhookRequest:
    signature = hmac.digest(secret.encode(), body, "sha256").hex()
    headers = {"x-pigeon-signature": signature}
    return WebhookRequest(method="POST", path="/", query="", headers=headers, body=body)


def test_what_comes_in_is_believed_and_read(pigeon: Adapter) -> None:
    item = {"id": "p1", "from": "coo", "name": "Coo", "at": 5}
    body = json.dumps({"loft": "77", "messages": [{**item, "text": "Open?"}, item]}).encode()
    endpoint = Endpoint(
        platform="pigeon",
        external_id="77",
        parent_id=None,
        tenant_id=1,
        channel_id=2,
        endpoint_key="k",
        secrets={"webhook_secret": "s", "access_token": "t"},
    )
    receiver = pigeon.receiver()
    assert receiver.verify(_request(body, "s"), [endpoint]) == [endpoint]
    assert receiver.verify(_request(body, "x"), [endpoint]) == []
    message, other = (each.event for each in receiver.parse(body))
    assert isinstance(message, MessageReceived)
    assert (message.text, message.contact.keys) == ("Open?", ("coo",))
    assert isinstance(other, Unsupported)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"loft": "77", "messages": 1}',
        b'{"loft": "77", "messages": ["text"]}',
        b'{"loft": "77", "messages": [{"id": 1, "from": 2, "at": "soon", "text": "x"}]}',
        b'{"loft": "77", "messages": [{"id": 1, "from": 2, "at": 1e999, "text": "x"}]}',
    ],
    ids=range(9),
)
def test_what_is_none_of_the_platforms_is_refused(pigeon: Adapter, body: bytes) -> None:
    with pytest.raises(InvalidInput, match="not a delivery"):
        pigeon.receiver().parse(body)


@pytest.mark.real_time
async def test_what_goes_out_is_taken_or_declined(pigeon: Adapter) -> None:
    async def take(request: Request) -> Response:
        if request.headers["authorization"] != "Bearer t":
            return Response(401)
        sent = json.loads(request.body)
        assert (request.path, sent["to"], sent["text"]) == ("/lofts/77/messages", "coo", "Yes")
        return Response(200, b'{"id": "out1"}')

    async with listening(take) as server:
        host = server.base_url.removeprefix("http://")
        tools = Tools(media=Files({}), guard=Guard(allowed=[host]), link=lambda tenant_id, key: "")
        item = OutboxItem(
            id=1, tenant_id=1, channel_id=2, conversation_id=3, contact_key="coo", message_id=4,
            recipient="coo", lane=0, state="queued", attempts=0, not_before=0, send=SendText(body="Yes"),
            reply_to=None, trace="t", created_at=0,
        )  # fmt: skip
        for token, outcome in (("t", Accepted(platform_id="out1")), ("x", ErrorClass.AUTH)):
            account = Account(
                tenant_id=1,
                channel_id=2,
                platform="pigeon",
                external_id="77",
                credentials={"access_token": token, "webhook_secret": "s"},
                settings={"base_url": server.base_url},
            )
            async with pigeon.sender(tools) as sender:
                result = await sender.send(item, account, AtOnce())
            assert (result.error_class if isinstance(result, Declined) else result) == outcome
