"""A played platform's API under the faults that a script sets."""

from abc import ABC, abstractmethod
from typing import Final

import msgspec
import trio

from adapters.simulators.faults import Fault, FaultBook, Route
from adapters.simulators.http import Cut, Request, Response
from adapters.simulators.ledger import Ledger, Send
from adapters.simulators.playing.cast import Json

_GARBAGE: Final = b"<!DOCTYPE html><html><body><h1>Sorry, something went wrong</h1></body></html>"


class Refusal(Exception):
    """A call is refused with one of the platform's codes. `status` None: the one that goes with the code."""

    def __init__(
        self, code: int, message: str, *, subcode: int | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.subcode, self.status = code, message, subcode, status


class Calls(ABC):
    """Answers calls. `do` and `written` are the platform's own."""

    call_bytes_max = 65_536
    """Of a call that is no upload."""

    def __init__(self, *, ledger: Ledger, faults: FaultBook) -> None:
        self.ledger = ledger
        self.faults = faults

    def body_limit(self, method: str, path: str) -> int:
        """How much body a call may carry."""
        return self.call_bytes_max

    @abstractmethod
    def route(self, request: Request) -> tuple[Route, str | None]:
        """What kind of call it is, and the account that it is for where the address says so; for faults.
        Raises Refusal."""

    @abstractmethod
    def do(self, request: Request) -> tuple[Response, Send | None]:
        """The call takes effect: the answer, and the send if one was accepted. Raises Refusal."""

    @abstractmethod
    def written(self, refused: Refusal) -> Response:
        """A refusal as the platform writes it."""

    def refusal(self, refused: Refusal, retry_after_seconds: float | None) -> Response:
        """The same, with the time after which the call may be made again."""
        response = self.written(refused)
        if retry_after_seconds is None:
            return response
        headers = {**response.headers, "Retry-After": f"{retry_after_seconds:g}"}
        return msgspec.structs.replace(response, headers=headers)

    async def answer(self, request: Request) -> Response:
        """One call. Raises Cut for a fault that gives no answer."""
        fault: Fault | None = None
        try:
            route, account_id = self.route(request)
            fault = self.faults.take(route, account_id, trio.current_time())
            if fault is not None and fault.kind not in ("slow", "drip"):
                return await self._misbehave(fault, request)
            if fault is not None and fault.kind == "slow":
                await trio.sleep(fault.seconds)
            response, _ = self.do(request)
            if fault is not None and fault.kind == "drip":
                return msgspec.structs.replace(response, pace_bytes_per_second=fault.bytes_per_second)
            return response
        except Refusal as refused:
            self.ledger.record_refusal(refused.code)
            return self.refusal(refused, fault.retry_after_seconds if fault is not None else None)

    async def _misbehave(self, fault: Fault, request: Request) -> Response:
        if fault.accepts:
            _, send = self.do(request)
            if send is not None:
                send.answered = False
        match fault.kind:
            case "garbage":
                return Response(fault.status or 200, _GARBAGE, "text/html; charset=utf-8")
            case "hang":
                await trio.sleep(fault.seconds)
                raise Cut(reset=False)
            case "reset":
                raise Cut(reset=True)
            case _:
                sentence = "A fault was set for this call"
                raise Refusal(fault.code, sentence, subcode=fault.subcode, status=fault.status)


def object_of(body: bytes, code: int) -> Json:
    """A call's JSON. Raises Refusal with this code for what is no object."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(code, "The body is not JSON") from error
    if not isinstance(decoded, dict):
        raise Refusal(code, "The body is no object")
    return decoded


def member_of(body: Json, name: str, code: int) -> Json:
    """An object in a call's JSON. Raises Refusal with this code where there is none."""
    value = body.get(name)
    if not isinstance(value, dict):
        raise Refusal(code, f"{name} is required")
    return value
