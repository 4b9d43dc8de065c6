"""The control API: the same scripting as on the object, for other processes, under `/__sim/`.

    GET    /__sim/health                        {"ok": true}
    GET    /__sim/accounts                      the numbers, their keys (simulated ones) and callbacks
    GET    /__sim/statistics
    GET    /__sim/ledger?kind=&after=&limit=    facts, sends, marks, attempts or duplicates
    GET    /__sim/sends/{id}                    one accepted send with its body
    GET    /__sim/customers                     who there is
    POST   /__sim/connect                       {callback_url, phone_number_id?, check?}
    POST   /__sim/messages                      {from, text?, kind?, name?, phone_number_id?}, or
                                                {from, message: a messages[] element}
    POST   /__sim/echoes                        {to, text, phone_number_id?}
    POST   /__sim/webhooks                      {payload | text, signed?, phone_number_id?}: one raw POST
    POST   /__sim/talk                          a `Talk`;  DELETE stops
    POST   /__sim/faults                        a `Fault`; GET lists; DELETE /__sim/faults[/{id}] clears
    POST   /__sim/throttle                      {phone_number_id, per_second, for_seconds?}
    POST   /__sim/down                          {seconds}: this API is gone as well meanwhile
    POST   /__sim/recipients                    {recipient, code | null}
    POST   /__sim/window                        {recipient, opened, phone_number_id?}
    POST   /__sim/template-status               {name, event, phone_number_id?}
    PATCH  /__sim/settings                      some of the `Settings`; GET shows them

Answers are JSON; refusals are `{"code", "message"}` with 4xx or 503. There is no authentication: the
simulator is a sandbox and listens on the loopback address unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import trio
from msgspec import Struct, field

from adapters.simulators.builders import webhook_bytes
from adapters.simulators.faults import Fault
from adapters.simulators.http import Request, Response
from adapters.simulators.talk import Talk
from engine.errors import Conflicting, InvalidInput, MijraError, NotFound, Unavailable

if TYPE_CHECKING:
    from adapters.simulators.whatsapp import Simulator

_PAGE_MAX = 10_000
"""About 3 MB of JSON."""

T = TypeVar("T")


class _Connect(Struct, forbid_unknown_fields=True):
    callback_url: str
    phone_number_id: str | None = None
    check: bool = True


class _Say(Struct, forbid_unknown_fields=True):
    sender: str = field(name="from")
    text: str | None = None
    kind: str = "text"
    name: str | None = None
    phone_number_id: str | None = None
    message: dict[str, Any] | None = None


class _Echo(Struct, forbid_unknown_fields=True):
    to: str
    text: str
    phone_number_id: str | None = None


class _Raw(Struct, forbid_unknown_fields=True):
    payload: Any = None
    text: str | None = None
    signed: bool = True
    phone_number_id: str | None = None


class _Throttle(Struct, forbid_unknown_fields=True):
    phone_number_id: str
    per_second: int
    for_seconds: float = 1e9


class _Down(Struct, forbid_unknown_fields=True):
    seconds: float


class _Recipient(Struct, forbid_unknown_fields=True):
    recipient: str
    code: int | None


class _Window(Struct, forbid_unknown_fields=True):
    recipient: str
    opened: bool
    phone_number_id: str | None = None


class _TemplateStatus(Struct, forbid_unknown_fields=True):
    name: str
    event: str
    phone_number_id: str | None = None


class ControlApi:
    """Turns control calls into calls on the simulator."""

    def __init__(self, simulator: Simulator) -> None:
        self._sim = simulator

    async def answer(self, request: Request) -> Response:
        """One call; never raises for what a caller can send."""
        return await answer_of(self._dispatch, request)

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

    def _show(self, request: Request, what: str, which: str) -> object:
        sim = self._sim
        match what:
            case "health":
                return {"ok": True}
            case "accounts":
                return [
                    msgspec.to_builtins(one) | {"callback_url": sim.callback_url(one.phone_number_id)}
                    for one in sim.accounts.values()
                ]
            case "statistics":
                return sim.statistics()
            case "ledger":
                kind = request.query.get("kind", "facts")
                return sim.ledger.page(kind, number_of(request, "after", 0), page_of(request))
            case "sends":
                send = sim.ledger.send(which)
                if send is None:
                    raise NotFound("no accepted send has this id")
                return msgspec.to_builtins(send) | {"body": sim.ledger.payload(which)}
            case "customers":
                return [msgspec.to_builtins(one.person) for one in sim.cast.everybody[:_PAGE_MAX]]
            case "faults":
                return sim.faults.listing(trio.current_time())
            case "settings":
                return sim.settings
            case _:
                raise NotFound(f"there is nothing at {request.path:.80}")

    async def _act(self, request: Request, what: str) -> object:
        sim, body = self._sim, request.body
        match what:
            case "connect":
                connect = _read(body, _Connect)
                await sim.connect(connect.callback_url, connect.phone_number_id, check=connect.check)
                return {"connected": True}
            case "messages":
                return {"id": self._say(_read(body, _Say))}
            case "echoes":
                echo = _read(body, _Echo)
                customer = sim.cast.adopt(echo.to)
                return {"id": sim.echo(customer, echo.text, phone_number_id=echo.phone_number_id)}
            case "webhooks":
                raw = _read(body, _Raw)
                content = raw.text.encode() if raw.text is not None else webhook_bytes(raw.payload)
                outcome = await sim.post_raw(content, signed=raw.signed, phone_number_id=raw.phone_number_id)
                return {"outcome": outcome}
            case "talk":
                sim.start_talking(_read(body or b"{}", Talk))
                return {"talking": True}
            case "faults":
                return {"id": sim.fault(_read(body, Fault))}
            case "throttle":
                throttle = _read(body, _Throttle)
                sim.throttle(throttle.phone_number_id, throttle.per_second, throttle.for_seconds)
                return {"per_second": throttle.per_second}
            case "down":
                seconds = _read(body, _Down).seconds
                # A moment later, so that this answer still gets out.
                sim.webhooks.after(0.05, lambda: sim.go_down(seconds))
                return {"down_seconds": seconds}
            case "recipients":
                recipient = _read(body, _Recipient)
                sim.fail_recipient(recipient.recipient, recipient.code)
                return {"code": recipient.code}
            case "window":
                window = _read(body, _Window)
                sim.set_window(window.recipient, opened=window.opened, phone_number_id=window.phone_number_id)
                return {"opened": window.opened}
            case "template-status":
                change = _read(body, _TemplateStatus)
                sim.tell_template_status(change.name, change.event, phone_number_id=change.phone_number_id)
                return {"told": True}
            case "settings":
                return sim.change_settings(_read(body, dict[str, Any]))
            case _:
                raise NotFound(f"there is nothing at {request.path:.80}")

    def _say(self, say: _Say) -> str:
        sim = self._sim
        customer = sim.cast.find(say.sender) or sim.cast.adopt(say.sender, say.name)
        if say.message is None:
            return sim.send(customer, say.kind, say.text, phone_number_id=say.phone_number_id)
        if not isinstance(say.message.get("id"), str) or not isinstance(say.message.get("type"), str):
            raise InvalidInput("message needs id and type")
        return sim.tell_message(sim.account(say.phone_number_id), customer.person, say.message)


async def answer_of(dispatch: Callable[[Request], Awaitable[object]], request: Request) -> Response:
    """A control call's answer or refusal as JSON."""
    try:
        return _json(await dispatch(request))
    except msgspec.DecodeError as error:
        return _json({"code": "validation_failed", "message": str(error)}, 422)
    except MijraError as error:
        return _json({"code": error.code, "message": error.message}, _status(error))


def page_of(request: Request) -> int:
    """How many records a call wants, bounded."""
    return min(number_of(request, "limit", 1_000), _PAGE_MAX)


def _read(body: bytes, kind: type[T]) -> T:
    return msgspec.json.decode(body, type=kind)


def number_of(request: Request, name: str, default: int) -> int:
    """A number of the query. Raises InvalidInput for another text."""
    text = request.query.get(name, str(default))
    if not text.isdigit() or not text.isascii():
        raise InvalidInput(f"{name} is a number")
    return int(text)


def _json(content: object, status: int = 200) -> Response:
    return Response(status, msgspec.json.encode(content))


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
