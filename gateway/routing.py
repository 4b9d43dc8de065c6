"""Routes as data: what a handler needs, takes and answers, declared where it is written.

A declaration serves four readers: Quart (method and path), the pipeline (permission, body and query types),
the OpenAPI document, and the test that walks all routes. Types of body and query are read from the handler's
own annotations, so they cannot disagree with it:

    @routes.post("/tags", needs=Permission.TAGS_MANAGE, answer=TagOut, status=201)
    async def create_tag(call: TenantCall, body: TagBody) -> Answer:
        \"""Create a tag.\"""
"""

from collections.abc import Awaitable, Callable
from enum import Enum
from inspect import cleandoc
from typing import Any, TypeVar, get_type_hints

from msgspec import Struct
from quart import Response
from quart.wrappers import Request

from engine.domain.config import TenantConfig
from engine.domain.conversation.messages import By
from engine.errors import NotFound
from engine.reading import ConversationPlace, Tenant
from gateway.authentication import Authenticator, Principal
from gateway.dependencies import Dependencies
from gateway.envelope import Answer
from gateway.locks import Locks
from gateway.passwords import LoginGuard, Passwords
from gateway.permissions import Permission, may_see, sees_all
from gateway.signed_urls import SignedUrls
from gateway.tenants import Tenants


class Access(Enum):
    """Who may call a route outside a tenant's permissions."""

    PUBLIC = "public"
    SIGNED_IN = "signed in"
    LANDLORD = "landlord"


class Site(Struct, frozen=True, kw_only=True):
    """What the API itself keeps, one of each per process, beside its dependencies. `changing` holds the
    channels whose credentials are being changed."""

    deps: Dependencies
    tenants: Tenants
    authenticator: Authenticator
    passwords: Passwords
    logins: LoginGuard
    links: SignedUrls
    changing: Locks


class Call(Struct, kw_only=True):
    """One request on its way. `trace` is its X-Request-Id, `address` the client's."""

    site: Site
    request: Request
    trace: str
    address: str
    principal: Principal | None = None

    @property
    def deps(self) -> Dependencies:
        return self.site.deps

    @property
    def caller(self) -> Principal:
        """The principal of a route that is not public."""
        assert self.principal is not None
        return self.principal


class TenantCall(Call, kw_only=True):
    """A call within a tenant, by one of its users (or by a signed link: then `role` is empty)."""

    tenant: Tenant
    config: TenantConfig
    role: str
    permissions: frozenset[Permission]

    @property
    def by(self) -> By:
        agent = self.config.agents.get(self.caller.user_id)
        return By(kind="user", id=self.caller.user_id, name=agent.name if agent else self.caller.name)

    @property
    def visible_to(self) -> int | None:
        """For reads: None sees all, else this agent's own and unassigned conversations."""
        return None if sees_all(self.role) else self.caller.user_id

    async def place(self, conversation_id: int) -> ConversationPlace:
        """Where the conversation is. NotFound also when the caller may not see it."""
        place = await self.deps.reads.place(self.tenant.id, conversation_id)
        if place is None or not self.sees(place):
            raise NotFound("There is no such conversation.")
        return place

    def sees(self, place: ConversationPlace) -> bool:
        return may_see(self.role, self.caller.user_id, place)

    def sign(self) -> Callable[[int, int], str]:
        return self.site.links.for_tenant(self.tenant.slug)


Handler = Callable[..., Awaitable[Answer | Response]]
H = TypeVar("H", bound=Handler)


class Route(Struct, frozen=True, kw_only=True):
    """`path` in Werkzeug's syntax, below the prefix. `secret`: the answer shows something once. `twin`: the
    same handler under a second method. `also`: statuses that it answers beside those of every such route."""

    method: str
    path: str
    handler: Handler
    needs: Permission | Access
    area: str
    in_tenant: bool
    body: type[Any] | None
    query: type[Any] | None
    answer: Any
    status: int
    paged: bool
    secret: bool
    media: str
    seconds_max: float | None
    twin: bool
    also: tuple[int, ...]

    @property
    def name(self) -> str:
        """Unique: logs, metrics and the OpenAPI document tell routes apart by it."""
        name = f"{self.area}.{self.handler.__name__}"
        return f"{name}.{self.method.lower()}" if self.twin else name

    @property
    def summary(self) -> str:
        return cleandoc(self.handler.__doc__ or self.handler.__name__).splitlines()[0].rstrip(".")

    @property
    def description(self) -> str:
        return cleandoc(self.handler.__doc__ or "")

    @property
    def mutating(self) -> bool:
        return self.method not in ("GET", "HEAD")


class Routes:
    """Collects the routes of one area, in the order they are written."""

    def __init__(self, area: str, *, prefix: str = "/api/<slug:tenant>", in_tenant: bool = True) -> None:
        self.area = area
        self.prefix = prefix
        self.in_tenant = in_tenant
        self.all: list[Route] = []

    def get(self, path: str, **options: Any) -> Callable[[H], H]:
        return self._route("GET", path, **options)

    def post(self, path: str, **options: Any) -> Callable[[H], H]:
        return self._route("POST", path, **options)

    def put(self, path: str, **options: Any) -> Callable[[H], H]:
        return self._route("PUT", path, **options)

    def patch(self, path: str, **options: Any) -> Callable[[H], H]:
        return self._route("PATCH", path, **options)

    def update(self, path: str, **options: Any) -> Callable[[H], H]:
        """PUT and PATCH alike: clients of older systems send the one, habit says the other. Both change what
        is sent and leave the rest."""
        put = self._route("PUT", path, **options)
        patch = self._route("PATCH", path, twin=True, **options)
        return lambda handler: patch(put(handler))

    def delete(self, path: str, **options: Any) -> Callable[[H], H]:
        return self._route("DELETE", path, **options)

    def _route(
        self,
        method: str,
        path: str,
        *,
        needs: Permission | Access,
        answer: Any = None,
        status: int = 200,
        paged: bool = False,
        secret: bool = False,
        media: str = "application/json",
        seconds_max: float | None = None,
        twin: bool = False,
        also: tuple[int, ...] = (),
    ) -> Callable[[H], H]:
        def declare(handler: H) -> H:
            hints = get_type_hints(handler)
            self.all.append(
                Route(
                    method=method,
                    path=self.prefix + path,
                    handler=handler,
                    needs=needs,
                    area=self.area,
                    in_tenant=self.in_tenant,
                    body=hints.get("body"),
                    query=hints.get("query"),
                    answer=answer,
                    status=status,
                    paged=paged,
                    secret=secret,
                    media=media,
                    seconds_max=seconds_max,
                    twin=twin,
                    also=also,
                )
            )
            return handler

        return declare
