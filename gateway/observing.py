"""What the engine does, as log lines an operator can read.

`EngineLog` hears the runtime's events (crashes, restarts, dead letters), `JournalLog` the committed events
of all tenants. Names and ids only: no message bodies, no handles of customers (a contact's key is a phone
number, so an address is logged without it).
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from engine.ports import LoggedEvent
from engine.runtime import Address, DeadLetter, SilentObserver

log = structlog.get_logger()

_CONVERSATION = "conversations."
_STATUS_EVENT = "message.status.updated"


class _Status(Struct):
    status: str


_status = msgspec.json.Decoder(_Status)


class EngineLog(SilentObserver):
    """The runtime's observer. Starts and stops of children are debug; everything an operator may have to
    act on is warning or error."""

    def started(self, path: str) -> None:
        log.debug("actor.started", path=path)

    def stopped(self, path: str, reason: str) -> None:
        log.debug("actor.stopped", path=path, reason=reason)

    def restarting(self, path: str, delay_seconds: float) -> None:
        log.warning("actor.restarting", path=path, delay_seconds=round(delay_seconds, 3))

    def escalated(self, path: str, error: BaseException | None) -> None:
        log.error("supervisor.gave_up", path=path, error=repr(error))

    def worker_crashed(self, path: str, error: BaseException) -> None:
        log.error("actor.crashed", path=path, exc_info=error)

    def crashed(self, address: Address, error: BaseException, attempts: int) -> None:
        log.error("actor.crashed", **_who(address), attempts=attempts, exc_info=error)

    def commit_failed(self, address: Address, error: BaseException, decided_again: int) -> None:
        log.warning(
            "actor.commit_failed",
            **_who(address),
            code=getattr(error, "code", ""),
            reason=str(error),
            decided_again=decided_again,
        )

    def load_failed(self, address: Address, error: BaseException, delay_seconds: float) -> None:
        log.warning(
            "actor.load_failed", **_who(address), reason=str(error), delay_seconds=round(delay_seconds, 3)
        )

    def parked(self, letter: DeadLetter) -> None:
        log.error(
            "dead_letter.parked",
            **_who(letter.address),
            message=type(letter.message).__name__,
            trace=getattr(letter.message, "trace", ""),
            attempts=letter.attempts,
            error=letter.error.strip().rpartition("\n")[2],
        )

    def undeliverable(self, address: Address, message: object, reason: str) -> None:
        log.error(
            "message.undeliverable",
            **_who(address),
            message=type(message).__name__,
            trace=getattr(message, "trace", ""),
            reason=reason,
        )

    def stalled(self, sender: Address, receiver: Address) -> None:
        log.warning("actor.stalled", **_who(sender), receiver=receiver.kind)

    def overrun(self, sender: Address, receiver: Address) -> None:
        log.error("actor.overrun", **_who(sender), receiver=receiver.kind)

    def fenced(self, tenant: int) -> None:
        log.error("tenant.fenced", tenant=tenant)


class JournalLog:
    """A line for each committed event: the middle of every message's life (`mijra logs --trace`)."""

    def committed(self, events: Sequence[LoggedEvent]) -> None:
        for event in events:
            fields: dict[str, Any] = {
                "trace": event.trace,
                "tenant": event.tenant_id,
                "name": event.name,
                "cursor": event.cursor,
            }
            for channel in event.channels:
                if channel.startswith(_CONVERSATION):
                    fields["conversation"] = int(channel.removeprefix(_CONVERSATION))
                    break
            if isinstance(event.local, str) and event.local != event.trace:
                fields["traces"] = [event.trace, event.local]
            if event.name == _STATUS_EVENT:
                fields["status"] = _status.decode(event.data).status
            log.info("event.committed", **fields)


def _who(address: Address) -> dict[str, Any]:
    fields: dict[str, Any] = {"actor": address.kind, "tenant": address.tenant}
    if isinstance(address.key, tuple):
        fields["channel_id"] = address.key[0]
    elif isinstance(address.key, int):
        fields["key"] = address.key
    return fields
