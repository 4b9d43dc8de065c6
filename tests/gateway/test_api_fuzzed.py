"""Every route of the OpenAPI document, called with what Schemathesis makes of its description.

The document is a promise in both directions: what it does not describe is refused, and what comes back has
the described status, content type and shape, in the envelope. So each route gets calls that fit the
description and calls that break it, on the real server, by somebody who may do everything. Most ids are of
something that exists, or the calls would all end in 404.

The calls follow from the document alone and are the same in every run. What a handler does with sensible
input is for the other tests; this one looks for the input nobody thought of.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any, Final

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.config import GenerationConfig
from schemathesis.specs.openapi import checks
from schemathesis.specs.openapi.schemas import OpenApiSchema

from engine.domain.ids import ID_MAX
from gateway.api import ALL_ROUTES
from gateway.idempotency import HEADER
from gateway.routing import Access, Route
from tests.gateway.belongings import PARAMETER, belongings
from tests.gateway.conftest import Business, System, http
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.real_time

EXAMPLES_MAX: Final = 6
"""For each route and each way of making calls: some 800 calls in all, in some 25 seconds."""

_CONTENTS: Final = {
    "text": "content",
    "template": "template",
    "interactive": "interactive",
    "location": "location",
    "reaction": "reaction",
    "image": "attachments",
    "document": "attachments",
}
"""The member that a message of this type is made of."""

_CHECKS: Final = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]


def _ways() -> Iterator[Any]:
    """Each route with calls that fit; with calls that do not, unless there is nothing to get wrong. What
    removes things comes last."""
    for route in sorted(ALL_ROUTES, key=lambda route: route.method == "DELETE"):
        yield pytest.param(route, GenerationMode.POSITIVE, id=f"{route.name}-fits")
        has_header = route.mutating and route.in_tenant
        if "<id:" in route.path or "<string:" in route.path or route.body or route.query or has_header:
            yield pytest.param(route, GenerationMode.NEGATIVE, id=f"{route.name}-breaks")


class Target:
    """A business that may be damaged, something in it for every kind of id, and who may call what."""

    def __init__(self, system: System, business: Business) -> None:
        self.system = system
        self.business = business
        own = belongings(business)
        self.link = dict(httpx.URL(own["file_url"]).params)
        self.ids: Mapping[str, int] = {**own, "tenant_id": Business(system, "pooled").id}
        self.in_bodies: Mapping[str, Any] = {
            **own,
            "user_id": business.colleague.user_id,
            "assigned_to": business.colleague.user_id,
            "channel_id": business.channel["id"],
            "channel_ids": [business.channel["id"]],
            "phone": "+201000000001",
            "timezone": "Africa/Cairo",
        }
        self._calls = count(1)

    def aim(self, case: Any, *, fits: bool) -> None:
        """Put ids of what exists in the place of ids that happen to be well formed; what is broken stays."""
        for name, value in case.path_parameters.items():
            if name in self.ids and str(value).isdecimal() and 1 <= int(value) <= ID_MAX:
                case.path_parameters[name] = self.ids[name]
        if fits:
            if "day" in case.path_parameters:
                case.path_parameters["day"] = "monday"
            self._aim_members(case.body)
            if "signature" in case.query:
                case.query.update(self.link)

    def _aim_members(self, body: Any) -> None:
        if isinstance(body, list):
            for each in body:
                self._aim_members(each)
        elif isinstance(body, dict):
            if body.get("type") in _CONTENTS:
                # The document says what a message may have, and not which of it goes with which type.
                for name in _CONTENTS.values():
                    if name != _CONTENTS[body["type"]]:
                        body.pop(name, None)
            for name, value in body.items():
                if name in self.in_bodies and value is not None:
                    body[name] = self.in_bodies[name]
                else:
                    self._aim_members(value)

    def use_a_new_key(self, case: Any) -> None:
        """Or most calls would be refused for a key that another call was made with."""
        if HEADER in case.headers:
            case.headers[HEADER] = f"fuzzed {next(self._calls)}"

    @staticmethod
    def be_patient_for_a_second(case: Any) -> None:
        """Waiting as long as one may has tests of its own, and nothing comes here."""
        if str(case.query.get("wait", "")).isdecimal():
            case.query["wait"] = min(int(case.query["wait"]), 1)

    def token(self, route: Route) -> str:
        """A fresh one for each route, so that neither rates nor logging out reach the next."""
        if route.needs is Access.LANDLORD:
            return self.system.local_token
        return self.business.person("owner", self.business.owner.user_id).token


@pytest.fixture(scope="module")
def target(api_system: System) -> Target:
    return Target(api_system, Business(api_system, "pooled"))


@pytest.fixture(scope="module")
def described(target: Target) -> OpenApiSchema:
    """The document as the server shows it, for one tenant: others are tested elsewhere."""
    document = http.get(f"{target.system.base_url}/api/openapi.json", timeout=PATIENCE_SECONDS).json()
    for path, operations in list(document["paths"].items()):
        for operation in operations.values():
            operation["parameters"] = [each for each in operation["parameters"] if each["name"] != "tenant"]
        document["paths"][path.replace("{tenant}", target.business.slug)] = document["paths"].pop(path)
    schema: OpenApiSchema = schemathesis.openapi.from_dict(document, config=schemathesis.Config())
    # The caller is always the same; who may not call is tested elsewhere.
    schema.config.generation = GenerationConfig(with_security_parameters=False)
    # 413: what Schemathesis puts into forms to break them is large at times.
    schema.config.checks.negative_data_rejection.expected_statuses = [
        "400",
        "404",
        "409",
        "413",
        "415",
        "422",
    ]
    return schema


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as opened:
        yield opened


def test_the_document_has_every_route(described: OpenApiSchema, target: Target) -> None:
    """None is left out, none is made up."""
    listed = {(method.upper(), path) for path in described for method in described[path]}
    assert listed == {(route.method, _path(route, target)) for route in ALL_ROUTES}


@pytest.mark.parametrize(("route", "mode"), list(_ways()))
def test_calls_are_answered_as_described(
    described: OpenApiSchema,
    target: Target,
    session: requests.Session,
    route: Route,
    mode: GenerationMode,
) -> None:
    """Never a crash, never an answer that the document does not have, never what it forbids accepted."""
    operation = described[_path(route, target)][route.method.lower()]
    fits = mode is GenerationMode.POSITIVE
    headers = {"Authorization": f"Bearer {target.token(route)}"}

    @settings(
        max_examples=EXAMPLES_MAX,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), aimed=st.integers(0, 3).map(bool))
    def call(case: Any, aimed: bool) -> None:
        if aimed:
            target.aim(case, fits=fits)
        if fits:
            target.use_a_new_key(case)
            target.be_patient_for_a_second(case)
        answer = case.call(
            base_url=target.system.base_url, session=session, headers=headers, timeout=PATIENCE_SECONDS
        )
        case.validate_response(answer, checks=_CHECKS, headers=headers)
        _check_answer(answer)

    call()


def _check_answer(answer: Any) -> None:
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"][0])
    if answer.status_code in (429, 503):
        assert int(answer.headers["retry-after"][0]) >= 1
    if answer.status_code >= 400:
        assert set(answer.json()) - {"data"} == {"success", "message", "code", "errors"}
        assert answer.json()["success"] is False
        assert "Traceback" not in answer.text
        assert 'File "' not in answer.text


def _path(route: Route, target: Target) -> str:
    """As the document writes it."""
    return PARAMETER.sub(r"{\1}", route.path.replace("<slug:tenant>", target.business.slug))
