"""The public HTTP application: routing, headers and the log line around the pipeline.

Promises   Every answer is in the envelope and carries X-Request-Id, also those of the router (404, 405) and
           of crashes. One line `api.answered` per call.
Limits     Bodies by path: uploads, webhooks and everything else have their own.
Leaves     serving (ports, connections, shutdown) to `gateway.serving`; webhooks and the WebSocket are further
           blueprints that `gateway.boot` registers here.
"""

import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, cast

import structlog
from quart import Response, g, request
from quart.blueprints import Blueprint
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from engine.domain.ids import ID_MAX
from engine.domain.platforms import rules_of
from gateway.api import ALL_ROUTES
from gateway.authentication import Authenticator
from gateway.dependencies import Dependencies
from gateway.envelope import Answer
from gateway.locks import Locks
from gateway.openapi import docs_page, document
from gateway.passwords import LoginGuard, Passwords
from gateway.pipeline import Pipeline, elapsed_ms, refusal, response_of
from gateway.ratelimit import Verdict
from gateway.requests import LimitedBody, LimitedConnection, limited_request
from gateway.routing import Route, Site
from gateway.security_headers import SECURITY_HEADERS
from gateway.signed_urls import SignedUrls
from gateway.tenants import Tenants

CLIENT_REQUEST_ID_CHARACTERS_MAX = 128
UPLOAD_OVERHEAD_BYTES = 64 * 1024
"""Multipart headers around the file."""

UNREAD_SECONDS_MAX = 0.1
"""How long an answer that needed no body waits for it: what is on its way with the head arrives in that time,
and the connection can go on. Closing it on unread bytes would make the kernel drop the answer."""

RESPONSE_SECONDS_MAX = 300
"""For sending an answer, an export of 100,000 rows to a slow client included; ordinary ones take
milliseconds."""

log = structlog.get_logger()


def _from_one_to(highest: int) -> str:
    """A regular expression for the whole numbers from 1 to `highest`, without leading zeros."""
    digits = str(highest)
    shorter = rf"[1-9][0-9]{{0,{len(digits) - 2}}}"
    below = [
        rf"{digits[:place]}[{'0' if place else '1'}-{int(digit) - 1}][0-9]{{{len(digits) - place - 1}}}"
        for place, digit in enumerate(digits)
        if int(digit) > (0 if place else 1)
    ]
    return "|".join((digits, *below, shorter))


class IdConverter(BaseConverter):
    """An id in a path; anything that cannot be one is simply not this address.

    The expression alone decides: a converter that refuses a value afterwards makes the router answer 405 when
    another method has the same path."""

    regex = f"(?:{_from_one_to(ID_MAX)})"

    def to_python(self, value: str) -> int:
        return int(value)


class SlugConverter(BaseConverter):
    regex = "[a-z0-9][a-z0-9-]{0,62}"


class Application(QuartTrio):
    """Quart, except that its own answers are in the envelope."""

    asgi_http_class = LimitedConnection
    site: Site

    async def make_default_options_response(self, *_: object) -> Response:
        # Quart 0.23 passes its context, 0.22 does not.
        methods = sorted(self.url_map.bind("").allowed_methods(request.path))
        return response_of(Answer(data={"methods": methods}, headers={"Allow": ", ".join(methods)}))


def create_app(deps: Dependencies, *, blueprints: Iterable[Blueprint] = ()) -> Application:
    """The application; `app.site` is what boot shares with webhooks and the WebSocket (authenticator,
    tenants)."""
    app = Application("mijra", static_folder=None)
    app.site = make_site(deps)
    app.config["RESPONSE_TIMEOUT"] = RESPONSE_SECONDS_MAX
    app.config["MAX_CONTENT_LENGTH"] = deps.body_bytes_max
    app.request_class = limited_request(lambda path: _body_max(deps, path), _is_upload)
    app.url_map.converters["id"] = IdConverter
    app.url_map.converters["slug"] = SlugConverter
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = True
    _add_routes(app, Pipeline(app.site))
    _add_documents(app, ALL_ROUTES)
    for blueprint in blueprints:
        app.register_blueprint(blueprint)
    app.before_request(_begin)
    app.after_request(_finish)
    app.register_error_handler(HTTPException, _refuse)
    app.register_error_handler(Exception, _refuse)
    return app


def make_site(deps: Dependencies) -> Site:
    passwords = Passwords()
    return Site(
        deps=deps,
        tenants=Tenants(deps.landlord),
        authenticator=Authenticator(deps.landlord, deps.engine.now),
        passwords=passwords,
        logins=LoginGuard(passwords),
        links=SignedUrls(deps.master_key, deps.base_url, deps.engine.now),
        changing=Locks(),
    )


def _add_routes(app: Application, pipeline: Pipeline) -> None:
    for route in ALL_ROUTES:

        async def view(_route: Route = route, **path: Any) -> Response:
            return await pipeline.carry(_route, path)

        app.add_url_rule(route.path, route.name, view, methods=[route.method])


def _add_documents(app: Application, routes: Sequence[Route]) -> None:
    described = document(routes)
    page = docs_page(described)

    async def openapi() -> Response:
        return Response(described, content_type="application/json")

    async def docs() -> Response:
        style_only = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
        return Response(
            page, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": style_only}
        )

    app.add_url_rule("/api/openapi.json", "openapi", openapi, methods=["GET"])
    app.add_url_rule("/api/docs", "docs", docs, methods=["GET"])


def _has_body() -> bool:
    """RFC 9112, 6.3: a request without a length and a coding has no body, whether we have heard so or not."""
    return request.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in request.headers


def _body_max(deps: Dependencies, path: str) -> int:
    if _is_upload(path):
        return deps.upload_bytes_max + UPLOAD_OVERHEAD_BYTES
    if path.startswith("/api/webhooks/"):
        platform = path.removeprefix("/api/webhooks/").partition("/")[0]
        return max(deps.webhook_bytes_max, rules_of(platform).delivery_bytes_max)
    return deps.body_bytes_max


def _is_upload(path: str) -> bool:
    return path.startswith("/api/") and path.endswith("/upload")


async def _begin() -> None:
    g.started = time.perf_counter()
    g.trace = uuid.uuid4().hex


async def _finish(response: Response) -> Response:
    trace = g.setdefault("trace", uuid.uuid4().hex)
    response.headers["X-Request-Id"] = trace
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    if _has_body() and not await cast(LimitedBody, request.body).arrives(UNREAD_SECONDS_MAX):
        # Answered before the body was here, as with 413: what follows on this connection is no request.
        response.headers["Connection"] = "close"
    rate: Verdict | None = g.get("rate")
    if rate is not None:
        response.headers.update(rate.headers())
    if "route" in g or response.status_code >= 400:
        _log_answer(response, trace)
    return response


def _log_answer(response: Response, trace: str) -> None:
    fields: dict[str, Any] = {"trace": trace, "method": request.method, "status": response.status_code}
    for name in ("tenant", "route", "user_id", "code"):
        if name in g:
            fields[name] = g.get(name)
    theirs = request.headers.get("X-Request-Id")
    if theirs and theirs.isascii() and theirs.isprintable():
        fields["client_request_id"] = theirs[:CLIENT_REQUEST_ID_CHARACTERS_MAX]
    log.info("api.answered", **fields, duration_ms=elapsed_ms(g.get("started", time.perf_counter())))


async def _refuse(error: Exception) -> Response:
    return refusal(error)
