"""What the contract suite must be told of a platform, and where its payloads are."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct

from adapters.port import Adapter, ErrorClass
from adapters.registry import adapters
from engine.domain.inbound import InboundEvent
from engine.domain.outbound import Send
from engine.ports import Receiver

HERE: Final = Path(__file__).parent
PAYLOADS: Final = HERE.parent / "payloads"
SAMPLES: Final = Path(os.environ.get("MIJRA_SAMPLES", HERE.parents[3] / "shared" / "platforms" / "samples"))
"""The field's samples, where they are at hand."""


META_EXPIRED: Final = MappingProxyType({"code": 190})
META_THROTTLED: Final = MappingProxyType({"code": 4, "status": 429})


class Case(Struct, frozen=True, kw_only=True):
    """`count(body)`: how many items a delivery holds, found without the adapter. `sign(body, secret)`: the
    headers of a signed delivery. `secret` and `secret_before` are credentials by name; without `sign` the
    platform signs nothing. `codes` are the documented error codes with the class of each. `samples` is the
    folder of the field's samples, `foreign` says which of them are none of this receiver's, `unsupported`
    which the platform itself calls so. `receiver_then(header)`: for platforms whose signatures grow old, a
    receiver at the time of this one. For the played platform: `expired` and `throttled` are the faults
    (`/__sim/faults`) of a credential that ended and of too many calls, the latter with 7 seconds to wait,
    `token` is the credential that a call is refused without. `read` gives what the platform only announces,
    as it is read.
    `token` is the credential that a call is refused without. `signed(body)`: what of a body the signature
    covers. `sends`: messages by type in the platform's own form, where it does not take everybody's.
    """

    count: Callable[[bytes], int]
    sign: Callable[[bytes, str], Mapping[str, str]] | None
    secret: str = "app_secret"
    secret_before: str | None = "app_secret_previous"
    samples: str = ""
    codes: Mapping[str, ErrorClass]
    expired: Mapping[str, Any] = META_EXPIRED
    throttled: Mapping[str, Any] = META_THROTTLED
    token: str = "access_token"
    foreign: Callable[[str], bool] = lambda name: False
    read: Callable[[], Sequence[InboundEvent]] = tuple
    signed: Callable[[bytes], object] = lambda body: body
    sends: Mapping[str, Send] = {}
    unsupported: frozenset[str] = frozenset()
    receiver_then: Callable[[str], Receiver] | None = None


class Payload(Struct, frozen=True, kw_only=True):
    platform: str
    name: str
    body: bytes
    headers: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.platform}-{self.name}"


@cache
def case_of(platform: str) -> Case:
    """Raises ModuleNotFoundError for a platform that brings none: it has to."""
    case: Case = import_module(f"tests.adapters.contract.cases.{platform.replace('-', '_')}").CASE
    return case


def every_adapter() -> list[Adapter]:
    return list(adapters().values())


def own_payloads(platform: str) -> list[Payload]:
    return list(_payloads(platform, PAYLOADS / platform))


def field_samples(platform: str) -> list[Payload]:
    case = case_of(platform)
    found = _payloads(platform, SAMPLES / case.samples) if case.samples else ()
    return [each for each in found if not case.foreign(each.name)]


def _payloads(platform: str, folder: Path) -> Iterator[Payload]:
    for path in sorted(folder.glob("*")):
        if path.name.endswith(".headers.json"):
            continue
        beside = path.with_name(f"{path.stem}.headers.json")
        headers = json.loads(beside.read_bytes()) if beside.exists() else {}
        yield Payload(platform=platform, name=path.stem, body=path.read_bytes(), headers=headers)
