"""Pusher's HTTP side as Quart routes: `POST /broadcasting/auth` for clients, `/apps/{id}/…` for back ends.

Answers are as Pusher's libraries expect them and not in the API's envelope; refusals are in it, since those
libraries look at the status alone. `gateway/push/pusher/__init__.py` is the page for client authors.
"""

import re
import time
from collections.abc import Mapping
from typing import Final

import msgspec
import trio
from quart import Blueprint, Response, g, request

from engine.domain.ids import ID_MAX
from engine.errors import Forbidden, InvalidInput, Rejected
from gateway.authentication import Principal, bearer
from gateway.envelope import JSON_TYPE, Failure
from gateway.pipeline import TOKEN_RATE, client_address, failure_response, refusal
from gateway.push.native import member_of
from gateway.push.pusher.broadcasts import Broadcasts, Refusal
from gateway.push.pusher.channels import Kind, channel_name
from gateway.push.pusher.signature import subscription_auth
from gateway.push.rights import Viewer
from gateway.push.sessions import Sessions
from gateway.ratelimit import Buckets, refuse_over
from gateway.routing import Site
from gateway.subscription_rights import SubscriptionRights

BODY_SECONDS_MAX: Final = 10.0
_SOCKET_ID: Final = re.compile(r"[0-9]{1,20}\.[0-9]{1,20}")


def broadcasting_blueprint(site: Site, rights: SubscriptionRights, sessions: Sessions) -> Blueprint:
    blueprint = Blueprint("broadcasting", __name__)
    broadcasts = Broadcasts(sessions.apps, sessions.rooms, sessions.presence)
    calls: Buckets[int] = Buckets(TOKEN_RATE)

    @blueprint.post("/broadcasting/auth")
    async def auth() -> Response:
        try:
            token = bearer(request.headers.get("Authorization"))
            principal = await site.authenticator.authenticate(token, client_address(site, request))
            g.user_id = principal.user_id
            verdict = calls.take(principal.token_id, trio.current_time())
            refuse_over(verdict, "Too many requests for this token.")
            return _json(200, await _authorize(rights, sessions, principal, await _wish()))
        except Exception as error:  # noqa: BLE001  # the edge: every error becomes an answer
            return refusal(error)

    async def api(app_id: str, rest: str) -> Response:
        try:
            with trio.fail_after(BODY_SECONDS_MAX):
                body = await request.get_data(cache=False, as_text=False, parse_form_data=False)
            answer = broadcasts.answer(
                request.method,
                request.path,
                app_id,
                rest,
                list(request.args.items(multi=True)),
                body,
                now_seconds=time.time(),
            )
        except Exception as error:  # noqa: BLE001  # as above
            return refusal(error)
        if isinstance(answer, Refusal):
            g.code = answer.code
            failure = Failure(status=answer.status, code=answer.code, message=answer.sentence)
            return failure_response(failure)
        return _json(200, answer)

    blueprint.add_url_rule("/apps/<app_id>/<path:rest>", "api", api, methods=["GET", "POST"])
    return blueprint


async def _authorize(
    rights: SubscriptionRights, sessions: Sessions, principal: Principal, wish: Mapping[str, str]
) -> dict[str, str]:
    socket_id, name = wish.get("socket_id", ""), wish.get("channel_name", "")
    channel = channel_name(name)
    if channel.problem is not None:
        raise Forbidden(channel.problem)
    if channel.engine is None or channel.kind is Kind.PUBLIC:
        raise Forbidden("Who may listen to this channel, only the back end that publishes there can say.")
    if not _SOCKET_ID.fullmatch(socket_id):
        raise InvalidInput("socket_id: Must be the connection's.", fields={"socket_id": ["Is needed."]})
    tenant_id = sessions.rooms.tenant_of(socket_id)
    if tenant_id is not None and principal.belongs_to(tenant_id) and "tenant" not in wish:
        viewer = await rights.vouched(tenant_id, principal.user_id, principal.token_id)
    else:
        viewer = await rights.viewer_of(principal, wish.get("tenant"))
    if not await rights.may_subscribe(viewer, channel.engine):
        raise Forbidden("You may not listen to this channel.")
    app = sessions.apps.of_tenant(viewer.tenant_id)
    if app is None:
        raise Forbidden("This tenant's app cannot be used.")
    data = _channel_data(viewer, principal, wish, name)
    return {"auth": subscription_auth(app, socket_id, name, data), "channel_data": data}


def _channel_data(viewer: Viewer, principal: Principal, wish: Mapping[str, str], name: str) -> str:
    data: dict[str, object] = {
        "user_id": str(viewer.user_id),
        "user_info": member_of(viewer).info,
        "token": str(principal.token_id),
    }
    since = wish.get("since", wish.get(name))
    if since is not None:
        if not (since.isascii() and since.isdecimal() and int(since[:20]) <= ID_MAX):
            raise InvalidInput("since: Must be a cursor.", fields={"since": ["Must be a cursor."]})
        data["since"] = int(since)
    if "names" in wish:
        data["names"] = wish["names"]
    return msgspec.json.encode(data).decode()


async def _wish() -> dict[str, str]:
    """The form that clients send, or a JSON object; values as text."""
    with trio.fail_after(BODY_SECONDS_MAX):
        if request.mimetype == JSON_TYPE:
            raw = await request.get_data(cache=True, as_text=False, parse_form_data=False)
            try:
                given = msgspec.json.decode(raw, type=dict[str, str | int])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise InvalidInput("The body is not a JSON object of texts.", code="not_json") from error
            return {name: str(value) for name, value in given.items()}
        if request.mimetype != "application/x-www-form-urlencoded":
            raise InvalidInput("The body must be a form or JSON.", code="unsupported_media_type")
        form = await request.form
    if any(len(values) > 1 for _, values in form.lists()):
        raise Rejected("A parameter is given more than once.")
    return dict(form.items())


def _json(status: int, body: object) -> Response:
    return Response(msgspec.json.encode(body), status=status, content_type=JSON_TYPE)
