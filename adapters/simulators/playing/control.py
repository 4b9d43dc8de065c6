"""The control API of a played platform: the same scripting as on the object, for other processes.

    GET    /__sim/                              this page, with the kinds and calls of the platform
    GET    /__sim/health                        {"ok": true}
    GET    /__sim/accounts                      the accounts, their keys (simulated ones) and callbacks
    GET    /__sim/statistics
    GET    /__sim/ledger?kind=&after=&limit=    facts, sends, marks, attempts or duplicates
    GET    /__sim/sends/{id}                    one accepted send with its body
    GET    /__sim/customers                     who there is
    POST   /__sim/connect                       {callback_url, account_id?, check?}
    POST   /__sim/messages                      {from, text?, kind?, name?, account_id?}, or
                                                {from, item: what the platform would tell}
    POST   /__sim/echoes                        {to, text, account_id?}, where the platform has them
    POST   /__sim/webhooks                      {payload | text, signed?, account_id?}: one raw POST
    POST   /__sim/talk                          a `Talk`;  DELETE stops
    POST   /__sim/faults                        a `Fault`; GET lists; DELETE /__sim/faults[/{id}] clears
    POST   /__sim/throttle                      {per_second | null, account_id?, for_seconds?}
    POST   /__sim/token                         {expired: true | false, account_id?}, or
                                                {access_token, account_id?}
    POST   /__sim/down                          {seconds}: this API is gone as well meanwhile
    POST   /__sim/window                        {recipient, opened}
    PATCH  /__sim/settings                      some of the `Settings`; GET shows them

`account_id` may also be called as the platform's connection calls it (`page_id`, `phone_number_id`). A
platform may have calls of its own; its module names them. Answers are JSON; refusals are `{"code",
"message"}` with 4xx or 503.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import trio
from msgspec import Struct, field

from adapters.simulators.faults import Fault
from adapters.simulators.http import Request, Response, json_response
from adapters.simulators.talk import Talk
from engine.errors import Conflicting, InvalidInput, MijraError, NotFound, Unavailable

if TYPE_CHECKING:
    from adapters.simulators.playing.platform import Played

_PAGE_MAX = 10_000
"""About 3 MB of JSON."""

T = TypeVar("T")

Action = Callable[[bytes], object]
"""A call of the platform's own, from its body to its answer. Raises MijraError and msgspec's DecodeError."""


class Body(Struct, forbid_unknown_fields=True, kw_only=True):
    account_id: str | None = None


class _Connect(Body, kw_only=True):
    callback_url: str
    check: bool = True


class _Say(Body, kw_only=True):
    sender: str = field(name="from")
    text: str | None = None
    kind: str = "text"
    name: str | None = None
    item: dict[str, Any] | None = None


class _Echo(Body, kw_only=True):
    to: str
    text: str


class _Raw(Body, kw_only=True):
    payload: Any = None
    text: str | None = None
    signed: bool = True


class _Throttle(Body, kw_only=True):
    per_second: int | None
    for_seconds: float = inf


class _Token(Body, kw_only=True):
    expired: bool | None = None
    access_token: str | None = None


class _Down(Body, kw_only=True):
    seconds: float


class _Window(Body, kw_only=True):
    recipient: str
    opened: bool


class ControlApi:
    """Turns control calls into calls on the simulator. `actions` are the platform's own POSTs by name."""

    def __init__(self, simulator: Played[Any, Any], actions: Mapping[str, Action]) -> None:
        self._sim = simulator
        self._actions = actions

    async def answer(self, request: Request) -> Response:
        """One call; never raises for what a caller can send."""
        return await _answer_of(self._dispatch, request)

    async def _dispatch(self, request: Request) -> object:
        what, _, which = request.path.removeprefix("/__sim/").strip("/").partition("/")
        match request.method:
            case "GET":
                return self._show(request, what, which)
            case "POST" | "PATCH":
                return await self._act(request, what)
            case "DELETE" if what == "talk":
                self._sim.stop_talking()
                return {"talking": False}
            case "DELETE" if what == "faults" and (which == "" or which.isdigit()):
                return {"cleared": self._sim.clear_faults(int(which) if which else None)}
        raise NotFound(f"there is no {request.method} {request.path:.80}")

    def _page(self) -> str:
        sim = self._sim
        about = [f"{sim.platform}: kinds of POST /__sim/messages are {', '.join(sim.cast.kinds)}."]
        if self._actions:
            calls = ", ".join(f"POST /__sim/{name}" for name in self._actions)
            about.append(f"Calls of its own, described in {type(sim).__module__}: {calls}.")
        return "\n".join((*about, "", __doc__ or ""))

    def _show(self, request: Request, what: str, which: str) -> object:
        sim = self._sim
        match what:
            case "":
                return Response(200, self._page().encode(), "text/plain; charset=utf-8")
            case "health":
                return {"ok": True}
            case "accounts":
                return [
                    msgspec.to_builtins(one)
                    | {sim.account_field: one.account_id, "callback_url": sim.callback_url(one.account_id)}
                    for one in sim.accounts.values()
                ]
            case "statistics":
                return sim.statistics()
            case "ledger":
                kind = request.query.get("kind", "facts")
                return sim.ledger.page(kind, _number_of(request, "after", 0), _page_of(request))
            case "sends":
                send = sim.ledger.send(which)
                if send is None:
                    raise NotFound("no accepted send has this id")
                return msgspec.to_builtins(send) | {"body": sim.ledger.payload(which)}
            case "customers":
                everybody = sim.cast.everybody[:_PAGE_MAX]
                return [{"id": one.key, "name": one.name} for one in everybody]
            case "faults":
                return sim.faults.listing(trio.current_time())
            case "settings":
                return sim.settings
            case _:
                raise NotFound(f"there is nothing at {request.path:.80}")

    async def _act(self, request: Request, what: str) -> object:
        sim, body = self._sim, request.body
        action = self._actions.get(what)
        if action is not None:
            return action(self._renamed(body))
        match what:
            case "connect":
                connect = self._read(body, _Connect)
                await sim.connect(connect.callback_url, connect.account_id, check=connect.check)
                return {"connected": True}
            case "messages":
                return {"id": self._say(self._read(body, _Say))}
            case "echoes":
                echo = self._read(body, _Echo)
                return {"id": sim.echo(sim.cast.adopt(echo.to), echo.text, account_id=echo.account_id)}
            case "webhooks":
                raw = self._read(body, _Raw)
                content = json.dumps(raw.payload, separators=(",", ":")) if raw.text is None else raw.text
                return {
                    "outcome": await sim.post_raw(
                        content.encode(), signed=raw.signed, account_id=raw.account_id
                    )
                }
            case "talk":
                sim.start_talking(self._read(body or b"{}", Talk))
                return {"talking": True}
            case "faults":
                return {"id": sim.fault(self._read(body, Fault))}
            case "throttle":
                throttle = self._read(body, _Throttle)
                sim.throttle(throttle.per_second, throttle.account_id, throttle.for_seconds)
                return {"per_second": throttle.per_second}
            case "token":
                return self._token(self._read(body, _Token))
            case "down":
                seconds = self._read(body, _Down).seconds
                # A moment later, so that this answer still gets out.
                sim.webhooks.after(0.05, lambda: sim.go_down(seconds))
                return {"down_seconds": seconds}
            case "window":
                window = self._read(body, _Window)
                sim.set_window(window.recipient, opened=window.opened, account_id=window.account_id)
                return {"opened": window.opened}
            case "settings":
                return sim.change_settings(self._read(body, dict[str, Any]))
            case _:
                raise NotFound(f"there is nothing at {request.path:.80}")

    def _read(self, body: bytes, kind: type[T]) -> T:
        return msgspec.json.decode(self._renamed(body), type=kind)

    def _renamed(self, body: bytes) -> bytes:
        read = msgspec.json.decode(body, type=dict[str, Any])
        if self._sim.account_field in read:
            read["account_id"] = read.pop(self._sim.account_field)
        return msgspec.json.encode(read)

    def _token(self, token: _Token) -> object:
        if token.access_token is not None:
            self._sim.renew_token(token.access_token, token.account_id)
            return {"expired": False}
        if token.expired is None:
            raise InvalidInput("expired or access_token is needed")
        self._sim.expire_token(token.account_id, expired=token.expired)
        return {"expired": token.expired}

    def _say(self, say: _Say) -> str:
        sim = self._sim
        customer = sim.cast.find(say.sender) or sim.cast.adopt(say.sender, say.name)
        if say.item is None:
            return sim.send(customer, say.kind, say.text, account_id=say.account_id)
        account = sim.account(say.account_id)
        return sim.tell(account, customer, sim.said_by_hand(account, customer, say.item))


async def _answer_of(dispatch: Callable[[Request], Awaitable[object]], request: Request) -> Response:
    """A control call's answer or refusal as JSON."""
    try:
        answer = await dispatch(request)
        return answer if isinstance(answer, Response) else json_response(answer)
    except msgspec.DecodeError as error:
        return json_response({"code": "validation_failed", "message": str(error)}, 422)
    except MijraError as error:
        return json_response({"code": error.code, "message": error.message}, _status(error))


def _page_of(request: Request) -> int:
    """How many records a call wants, bounded."""
    return min(_number_of(request, "limit", 1_000), _PAGE_MAX)


def _number_of(request: Request, name: str, default: int) -> int:
    """A number of the query. Raises InvalidInput for another text."""
    text = request.query.get(name, str(default))
    if not text.isdigit() or not text.isascii():
        raise InvalidInput(f"{name} is a number")
    return int(text)


def _status(error: MijraError) -> int:
    match error:
        case NotFound():
            return 404
        case Conflicting():
            return 409
        case InvalidInput():
            return 422
        case Unavailable():
            return 503
        case _:
            return 502
