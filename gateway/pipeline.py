"""One API call from its headers to its answer, the same for every route.

    who is calling → may they go on (rates) → which tenant → what may they do there → what do they want →
    was it done already (Idempotency-Key) → the handler → the answer

Each step that refuses raises an error of the tree; `gateway.problems` makes the answer. The order matters: a
caller without a token learns nothing about tenants, one of another tenant gets the 404 of a tenant that does
not exist, and nobody without the permission has his body read.

Cancel     When the client hangs up, Quart cancels the call. A call without a key simply ends: what it had
           asked of an actor is carried out or not. A call with an Idempotency-Key is shielded and runs to its
           end within its deadline, so that its answer is kept for the client's next attempt.
Limits     `request_seconds_max` for a call in all, rates per token and per tenant.
"""

import time
from collections.abc import Mapping
from typing import Any, Final

import structlog
import trio
from quart import Response, g, request
from quart.wrappers import Request

from engine.errors import Forbidden, InvalidInput, NotFound, Unavailable
from engine.reading import Tenant
from gateway.authentication import Principal, bearer
from gateway.envelope import JSON_TYPE, Answer, Failure, failure_body, success_body
from gateway.idempotency import HEADER, KeptAnswer, check_key, request_hash
from gateway.permissions import Permission, granted
from gateway.problems import failure_of
from gateway.ratelimit import Buckets, Rate, Verdict, refuse_over
from gateway.routing import Access, Call, Route, Site, TenantCall
from gateway.schemas import NoQuery, decode_body, decode_query

TOKEN_RATE: Final = Rate(per_second=100, burst=300)
"""A busy inbox makes some 10 calls/s and an integration 50; one token at 100 already takes a fifth of what
the Quart lane answers in all."""

TENANT_RATE: Final = Rate(per_second=300, burst=1000)
"""More than half of what one process answers here, so that no tenant alone can starve the others."""

KEEP_SECONDS_MAX: Final = 5.0
"""For writing down a kept answer after the handler's own deadline may have passed."""

log = structlog.get_logger()


class Pipeline:
    """Carries calls. One per application; the only state is who called how often."""

    def __init__(self, site: Site, *, token_rate: Rate = TOKEN_RATE, tenant_rate: Rate = TENANT_RATE) -> None:
        self._site = site
        self._per_token: Buckets[int] = Buckets(token_rate)
        self._per_tenant: Buckets[int] = Buckets(tenant_rate)

    async def carry(self, route: Route, path: Mapping[str, Any]) -> Response:
        """The answer to the current request, whatever happens; only a cancellation passes through."""
        g.route = route.name
        seconds = route.seconds_max or self._site.deps.request_seconds_max
        try:
            with trio.fail_after(seconds):
                call = await self._admit(route, path)
                arguments = await _arguments(route, path)
            key = request.headers.get(HEADER) if route.mutating and isinstance(call, TenantCall) else None
            if key is not None and route.media == JSON_TYPE and call.principal is not None:
                assert isinstance(call, TenantCall)
                return await self._carry_once(route, call, arguments, check_key(key), seconds)
            with trio.fail_after(seconds):
                return response_of(await route.handler(call, **arguments))
        except Exception as error:  # noqa: BLE001  # the edge: every error becomes an answer
            return refusal(error)

    async def _carry_once(
        self, route: Route, call: TenantCall, arguments: Mapping[str, Any], key: str, seconds: float
    ) -> Response:
        kept = KeptAnswer(
            self._site.deps.reads,
            self._site.deps.vault,
            tenant_id=call.tenant.id,
            user_id=call.caller.user_id,
            key=key,
            secret=route.secret,
        )
        hashed = request_hash(self._site.deps.master_key, request.method, request.full_path, await _body())
        # Shielded with a deadline at each step: half a call whose answer nobody kept would make the
        # client's next attempt with this key wait for an end that never comes.
        with trio.CancelScope(shield=True):
            with trio.fail_after(seconds):
                earlier = await kept.claim(hashed, self._site.deps.engine.now())
            if earlier is not None:
                return _json(earlier[0], earlier[1], {"Idempotency-Replayed": "true"})
            try:
                with trio.fail_after(seconds):
                    response = response_of(await route.handler(call, **arguments))
            except Exception as error:  # noqa: BLE001  # the edge, and the claim must end
                response = refusal(error)
            with trio.move_on_after(KEEP_SECONDS_MAX):
                try:
                    await kept.keep(response.status_code, await response.get_data(as_text=False))
                except Unavailable as error:
                    log.warning("api.answer_not_kept", code=error.code, trace=call.trace)
        return response

    async def _admit(self, route: Route, path: Mapping[str, Any]) -> Call:
        site = self._site
        address = client_address(site, request)
        common: dict[str, Any] = {"site": site, "request": request, "trace": g.trace, "address": address}
        if route.needs is Access.PUBLIC:
            if route.in_tenant:
                return await self._public_tenant_call(path["tenant"], common)
            return Call(**common)
        principal = await site.authenticator.authenticate(
            bearer(request.headers.get("Authorization")), address
        )
        g.user_id = principal.user_id
        self._spend(self._per_token.take(principal.token_id, trio.current_time()), "token")
        if not route.in_tenant:
            if route.needs is Access.LANDLORD and not principal.landlord:
                raise Forbidden("Only the operators of this system may do this.")
            return Call(**common, principal=principal)
        return await self._tenant_call(route, path["tenant"], principal, common)

    async def _tenant_call(
        self, route: Route, slug: str, principal: Principal, common: dict[str, Any]
    ) -> TenantCall:
        tenant = await self._tenant(slug)
        operator = principal.landlord and principal.tenant_id is None
        if not operator and not principal.belongs_to(tenant.id):
            raise NotFound("There is no such tenant.")
        self._spend(self._per_tenant.take(tenant.id, trio.current_time()), "tenant")
        _check_usable(tenant)
        config = await self._site.deps.engine.config(tenant.id)
        agent = config.agents.get(principal.user_id)
        if agent is not None and agent.active:
            role = agent.role
        elif agent is None and operator:
            role = "operator"
        else:
            raise Forbidden("Your account in this tenant is not active.", code="user_inactive")
        permissions = granted(role, principal.abilities)
        if isinstance(route.needs, Permission) and route.needs not in permissions:
            raise Forbidden(f"This needs the permission {route.needs.value}.")
        return TenantCall(
            **common,
            principal=principal,
            tenant=tenant,
            config=config,
            role=role,
            permissions=permissions,
        )

    async def _public_tenant_call(self, slug: str, common: dict[str, Any]) -> TenantCall:
        tenant = await self._tenant(slug)
        _check_usable(tenant)
        config = await self._site.deps.engine.config(tenant.id)
        return TenantCall(**common, tenant=tenant, config=config, role="", permissions=frozenset())

    async def _tenant(self, slug: str) -> Tenant:
        g.tenant = slug
        tenant = await self._site.tenants.by_slug(slug)
        if tenant is None:
            raise NotFound("There is no such tenant.")
        return tenant

    def _spend(self, verdict: Verdict, whose: str) -> None:
        """The tighter of the two limits is the one that the headers speak of."""
        before: Verdict | None = g.get("rate")
        if before is None or verdict.remaining < before.remaining:
            g.rate = verdict
        refuse_over(verdict, f"Too many requests for this {whose}.")


async def _arguments(route: Route, path: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {name: value for name, value in path.items() if name != "tenant"}
    decoded = decode_query(request.args.items(multi=True), route.query or NoQuery)
    if route.query is not None:
        arguments["query"] = decoded
    if route.body is not None:
        raw = await _body()
        kind = request.mimetype
        if raw and kind != JSON_TYPE and not kind.endswith("+json"):
            raise InvalidInput("The body must be JSON.", code="unsupported_media_type")
        arguments["body"] = decode_body(raw, route.body)
    return arguments


async def _body() -> bytes:
    """The raw body; Quart keeps it, so asking again costs nothing."""
    return await request.get_data(cache=True, as_text=False, parse_form_data=False)


def _check_usable(tenant: Tenant) -> None:
    if tenant.status != "active":
        raise Forbidden("This tenant is suspended.", code="tenant_suspended")
    if tenant.placement_state == "creating":
        raise Unavailable(
            "This tenant is still being set up.", code="tenant_not_ready", retry_after_seconds=2
        )


def response_of(result: Answer | Response) -> Response:
    if isinstance(result, Response):
        return result
    return _json(result.status, success_body(result), result.headers)


def refusal(error: BaseException) -> Response:
    """The answer to an error, which is logged here when it is our own fault."""
    failure = failure_of(error)
    if failure.status == 500:
        log.error("api.crashed", route=g.get("route"), trace=g.get("trace"), exc_info=error)
    g.code = failure.code
    return failure_response(failure)


def failure_response(failure: Failure) -> Response:
    return _json(failure.status, failure_body(failure), failure.headers)


def _json(status: int, body: bytes, headers: Mapping[str, str]) -> Response:
    return Response(body, status=status, headers=dict(headers), content_type=JSON_TYPE)


def client_address(site: Site, current: Request) -> str:
    """What limits by address are keyed with."""
    forwarded = ",".join(current.headers.getlist("X-Forwarded-For"))
    return site.deps.client_of(current.remote_addr or "", forwarded or None)


def elapsed_ms(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 2)
