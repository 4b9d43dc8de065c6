"""Every adapter's inbound half, over the project's payloads and the field's samples where they are at
hand."""

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from adapters.port import Adapter
from adapters.wire import BYTES_PER_CONTAINER_MIN, CONTAINERS_MAX, EVENTS_MAX, decode_json
from engine.domain.inbound import (
    Announced,
    InboundEvent,
    MessageDeleted,
    MessageEchoed,
    MessageEdited,
    MessageReceived,
    StatusChanged,
    StatusesReached,
    Unsupported,
)
from engine.errors import InvalidInput
from engine.ports import Endpoint, WebhookRequest
from tests.adapters.contract.case import (
    SAMPLES,
    Payload,
    case_of,
    every_adapter,
    field_samples,
    own_payloads,
)

ADAPTERS = every_adapter()
NAMES = [each.platform.name for each in ADAPTERS]
BY_NAME = {each.platform.name: each for each in ADAPTERS}
OWN = [payload for name in NAMES for payload in own_payloads(name)]
FIELD = [payload for name in NAMES for payload in field_samples(name)]
ODD: list[Any] = [None, 0, -1, 1.5, "", "x", "9" * 600, [], {}, [None], {"id": 1}, True, 10**20]

each_adapter = pytest.mark.parametrize("adapter", ADAPTERS, ids=NAMES)


def parsed(payload: Payload, body: bytes | None = None) -> list[Any]:
    receiver = BY_NAME[payload.platform].receiver()
    return list(receiver.parse(payload.body if body is None else body, payload.headers))


@each_adapter
def test_there_are_payloads(adapter: Adapter) -> None:
    """Of our own, in a user's clone too."""
    assert len(own_payloads(adapter.platform.name)) >= 10


@pytest.mark.parametrize("payload", OWN + FIELD, ids=str)
def test_items_in_equal_events_out(payload: Payload) -> None:
    """Each item of a delivery is exactly one event of the closed set; what is unsupported keeps its JSON.
    What comes again makes the same events, ids included."""
    routed = parsed(payload)
    assert len(routed) == case_of(payload.platform).count(payload.body)
    for one in routed:
        assert isinstance(one.event, get_args(InboundEvent))
        if isinstance(one.event, Unsupported):
            assert one.event.raw
            assert one.event.reason
        msgspec.json.encode(one)
    assert parsed(payload) == routed


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the platform samples are not beside the repository")
@each_adapter
def test_the_fields_samples_are_understood(adapter: Adapter) -> None:
    """There are some, and nothing in them is unsupported but what the platform itself calls so."""
    if not case_of(adapter.platform.name).samples:
        pytest.skip("the field has none of this platform")
    samples = [each for each in FIELD if each.platform == adapter.platform.name]
    assert samples
    for payload in samples:
        odd = [one.event for one in parsed(payload) if isinstance(one.event, Unsupported)]
        named = "unsupported" in payload.name or "without_body" in payload.name
        assert not odd or named or payload.name in case_of(payload.platform).unsupported, payload.name


@each_adapter
def test_the_capabilities_are_what_the_payloads_show(adapter: Adapter) -> None:
    """Every type that is said to come in is shown, and nothing else is; likewise statuses, edits, deletions
    and echoes."""
    can = adapter.platform.capabilities
    events = [one.event for payload in own_payloads(adapter.platform.name) for one in parsed(payload)]
    announces = any(isinstance(one, Announced) for one in events)
    read = case_of(adapter.platform.name).read()
    assert announces == bool(read)
    events += read
    received = {one.type for one in events if isinstance(one, MessageReceived)}
    assert received == set(can.receives)
    statuses = {one.status for one in events if isinstance(one, StatusChanged | StatusesReached)}
    assert statuses <= set(can.statuses)
    assert set(can.statuses) - {"sent", "failed"} <= statuses
    assert any(isinstance(one, MessageEdited) for one in events) == can.edits
    assert any(isinstance(one, MessageDeleted) for one in events) == can.deletions
    assert any(isinstance(one, MessageEchoed) for one in events) == can.echoes


def spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside."""
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    else:
        return []
    return [one for key, item in inner for one in ((*path, key), *spots(item, (*path, key)))]


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_mutated_deliveries_never_crash_the_parser(name: str, data: st.DataObject) -> None:
    """Members removed or replaced by odd values: events, or InvalidInput and nothing else."""
    payload = data.draw(st.sampled_from([each for each in OWN if each.platform == name]))
    try:
        delivery = json.loads(payload.body)
    except ValueError:
        delivery = None
    if not isinstance(delivery, dict):
        return
    for _ in range(data.draw(st.integers(1, 3))):
        places = spots(delivery)
        if not places:
            break
        path = data.draw(st.sampled_from(places))
        holder: Any = delivery
        for step in path[:-1]:
            holder = holder[step]
        if data.draw(st.booleans()):
            holder[path[-1]] = copy.deepcopy(data.draw(st.sampled_from(ODD)))
        else:
            del holder[path[-1]]
    try:
        routed = parsed(payload, json.dumps(delivery).encode())
    except InvalidInput:
        return
    for one in routed:
        msgspec.json.encode(one)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data(), noise=st.binary(max_size=200), at=st.integers(0, 4_000), cut=st.integers(0, 60))
@settings(max_examples=100, deadline=None)
def test_bytes_of_any_kind_never_crash_the_parser(
    name: str, data: st.DataObject, noise: bytes, at: int, cut: int
) -> None:
    """Noise, a spliced delivery and one that was cut off."""
    payload = data.draw(st.sampled_from([each for each in OWN if each.platform == name]))
    whole = payload.body
    at %= len(whole)
    for body in (noise, whole[:at] + noise + whole[at + cut :], whole[:at], b""):
        try:
            parsed(payload, body)
        except InvalidInput:
            continue


def test_a_body_of_brackets_is_not_decoded() -> None:
    """Nothing takes so long to decode for its size. Brackets in a long text do no harm."""
    with pytest.raises(InvalidInput):
        decode_json(b"[" + b"{}," * CONTAINERS_MAX + b"{}]")
    text = "{[" * CONTAINERS_MAX + "x" * 2 * BYTES_PER_CONTAINER_MIN * CONTAINERS_MAX
    assert decode_json(json.dumps({"text": text}).encode()) == {"text": text}


@each_adapter
def test_more_items_than_any_platform_sends_are_not_read(adapter: Adapter) -> None:
    """A body of empty items costs its sender nothing and everybody else the time that they are read in."""
    receiver = adapter.receiver()
    many: list[Any] = [{}] * (EVENTS_MAX + 1)
    objects = ("page", "instagram", "whatsapp_business_account")
    nested = {"entry": [{"id": "1", name: many} for name in ("messaging", "changes")]}
    shapes: list[Any] = [
        many,
        [0] * len(many),
        {"agent": "brands/b/agents/a", "receipts": {"receipts": many}},
    ]
    shapes += [{"object": name, **inside} for name in objects for inside in (nested, {"entry": many})]
    for shape in shapes:
        with suppress(InvalidInput):
            assert len(receiver.parse(json.dumps(shape).encode())) <= EVENTS_MAX


# ------------------------------------------------------------------ signatures


def endpoint(platform: str, number: int, **secrets: str) -> Endpoint:
    return Endpoint(
        platform=platform,
        external_id=str(number),
        parent_id=None,
        tenant_id=number,
        channel_id=number,
        endpoint_key=f"k{number}",
        secrets=secrets,
    )


def request(payload: Payload, body: bytes, **headers: str) -> WebhookRequest:
    return WebhookRequest(
        method="POST",
        path=f"/api/webhooks/{payload.platform}",
        query="",
        headers={**payload.headers, **headers},
        body=body,
    )


def _vectors() -> Iterator[Any]:
    """Of the field's vectors, those of whole bodies whose signature is in a header alone."""
    path = SAMPLES / "signature_vectors.json"
    vectors = json.loads(path.read_bytes())["vectors"] if path.exists() else []
    for name in SIGNING:
        ours = [each for each in vectors if each["platform"] == case_of(name).samples]
        for number, vector in enumerate(each for each in ours if "file" in each):
            yield pytest.param(name, vector, id=f"{name}-{number}")


SIGNING = [name for name in NAMES if case_of(name).sign is not None]


@pytest.mark.parametrize("name", SIGNING)
def test_whose_secret_signed_is_found(name: str) -> None:
    """Among several, also by the secret before; nobody's fits no one, and an empty secret never signs."""
    case, payload = case_of(name), own_payloads(name)[0]
    assert case.sign is not None
    receiver = BY_NAME[name].receiver()
    ours, theirs = endpoint(name, 1, **{case.secret: "a"}), endpoint(name, 2, **{case.secret: "b"})
    empty, bare = endpoint(name, 3, **{case.secret: ""}), endpoint(name, 4)
    signed = request(payload, payload.body, **case.sign(payload.body, "a"))
    assert list(receiver.verify(signed, [theirs, ours, empty, bare])) == [ours]
    assert not receiver.verify(request(payload, payload.body), [ours, theirs, empty, bare])
    nobody = request(payload, payload.body, **case.sign(payload.body, ""))
    assert not receiver.verify(nobody, [ours, theirs, empty, bare])
    if case.secret_before is not None:
        rotating = endpoint(name, 5, **{case.secret: "new", case.secret_before: "a"})
        assert list(receiver.verify(signed, [rotating])) == [rotating]


class Asked(dict[str, str]):
    """Headers that note which of them somebody wanted."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__(headers)
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        return super().__getitem__(name)


@pytest.mark.parametrize("name", NAMES)
def test_what_proves_a_delivery_is_kept_with_it_and_what_lets_in_is_not(name: str) -> None:
    """Whatever header the receiver judges by, a token or login excepted; so a delivery that was signed can be
    verified again from what is stored."""
    adapter, case = BY_NAME[name], case_of(name)
    secrets = {**dict.fromkeys(adapter.platform.connection.secret_names, "x"), case.secret: "a"}
    proof = set(adapter.platform.proof_headers)
    assert proof
    assert all(header == header.lower() for header in proof)
    for payload in own_payloads(name):
        signed = case.sign(payload.body, "a") if case.sign is not None else {}
        asked = Asked({"host": "h", **payload.headers, **signed})
        delivery = structs.replace(request(payload, payload.body), headers=asked)
        found = adapter.receiver().verify(delivery, [endpoint(name, 1, **secrets)])
        assert asked.names <= {*proof, "authorization"}
        login = {"authorization": "Basic eA==", "cookie": "x", "x-api-key": "x"}
        kept = adapter.platform.kept_of({**asked, **login})
        assert not login.keys() & kept.keys()
        again = structs.replace(delivery, headers=kept)
        assert adapter.receiver().verify(again, [endpoint(name, 1, **secrets)]) == found


@pytest.mark.parametrize("name", SIGNING)
@given(data=st.data(), at=st.integers(0, 10_000), change=st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_any_changed_byte_breaks_the_signature(name: str, data: st.DataObject, at: int, change: int) -> None:
    """Over all that the platform signs, and in the signature itself."""
    case = case_of(name)
    payload = data.draw(st.sampled_from([each for each in OWN if each.platform == name]))
    assert case.sign is not None
    receiver, ours = BY_NAME[name].receiver(), endpoint(name, 1, **{case.secret: "a"})
    headers = dict(case.sign(payload.body, "a"))
    altered = bytearray(payload.body)
    altered[at % len(altered)] ^= change
    if case.signed(bytes(altered)) != case.signed(payload.body):
        assert not receiver.verify(request(payload, bytes(altered), **headers), [ours])
    for header, value in headers.items():
        place = at % len(value)
        other = "0" if value[place] != "0" else "1"
        forged = {**headers, header: value[:place] + other + value[place + 1 :]}
        assert not receiver.verify(request(payload, payload.body, **forged), [ours])


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the platform samples are not beside the repository")
@pytest.mark.parametrize(("name", "vector"), list(_vectors()))
def test_the_fields_signatures_hold(name: str, vector: dict[str, str]) -> None:
    """The vectors cover the exact bytes of the files. Those whose signature covers an address, or is in the
    body, are tried by the platforms' own tests (`test_sms_signing`, `email/test_signing`)."""
    case = case_of(name)
    body = (SAMPLES / vector["file"]).read_bytes()
    payload = Payload(platform=name, name="vector", body=body, headers={})
    signed = request(payload, body, **{vector["header"].lower(): vector["value"]})
    candidate = endpoint(name, 1, **{case.secret: vector["secret"]})
    then = case.receiver_then
    receiver = BY_NAME[name].receiver() if then is None else then(vector["value"])
    assert list(receiver.verify(signed, [candidate])) == [candidate]


@pytest.mark.parametrize("payload", OWN, ids=str)
def test_a_hint_at_the_account_is_one_of_those_named(payload: Payload) -> None:
    """Or there is none: it decides under overload whose delivery is refused."""
    hint = BY_NAME[payload.platform].receiver().account_hint(payload.body)
    assert hint is None or hint in {one.external_id for one in parsed(payload)}
