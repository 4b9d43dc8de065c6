"""The Graph API as WhatsApp, Messenger and Instagram share it: addresses, the token, errors, use of the
account.

Source      The WhatsApp sheet, sections 5.1, 6.1 and 6.2; the Messenger sheet and the Instagram sheet, 5 and
            6.
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec
from msgspec import Struct

from adapters.calling import seconds_of
from adapters.port import Account
from adapters.wire import decoded

BASE_URL: Final = "https://graph.facebook.com"
API_VERSION: Final = "v25.0"


def graph_url(account: Account, *path: str, base_url: str = BASE_URL) -> str:
    """`base_url` is the usual one; the channel's settings `base_url` and `api_version` override both."""
    version = account.settings.get("api_version") or API_VERSION
    return "/".join((account.base_url(base_url), *(quote(str(part), safe="") for part in (version, *path))))


def bearer(account: Account) -> dict[str, str]:
    return {"Authorization": f"Bearer {account.credentials.get('access_token', '')}"}


# ------------------------------------------------------------------ errors


class _Details(Struct):
    details: str | None = None


class GraphError(Struct):
    """`error` of an answer that is no success. Only the code decides: texts change."""

    code: int
    message: str | None = None
    error_subcode: int | None = None
    is_transient: bool = False
    error_data: _Details | None = None

    @property
    def details(self) -> str | None:
        return None if self.error_data is None else self.error_data.details


class _Bare(Struct):
    code: int


class _Body(Struct):
    error: GraphError


class _BareBody(Struct):
    error: _Bare


_body: Final = msgspec.json.Decoder(_Body)
_bare_body: Final = msgspec.json.Decoder(_BareBody)


def read_error(body: bytes) -> GraphError | None:
    """None: the body is none of the platform's. A code counts whatever is wrong beside it."""
    if (read := decoded(_body, body)) is not None:
        return read.error
    bare = decoded(_bare_body, body)
    return None if bare is None else GraphError(code=bare.error.code)


# ------------------------------------------------------------------ what headers say of the account's use


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from Retry-After, else what the usage header estimates; None where neither says anything."""
    given = headers.get("retry-after")
    seconds = seconds_of(given) if given is not None else usage(headers)[1] * 60.0
    return seconds or None


def usage(headers: Mapping[str, str]) -> tuple[float, float]:
    """The share of the account's calls that is used up, in percent, and the minutes until there are some
    again; zeros where the platform says nothing. Headers `X-Business-Use-Case-Usage`, {id: [{call_count,
    total_cputime, total_time, estimated_time_to_regain_access}]}, and `X-App-Usage`, the same without the
    lists."""
    percent = minutes = 0.0
    for name in ("x-business-use-case-usage", "x-app-usage"):
        found = decoded(_usage, headers.get(name, "").encode())
        if found is None:
            continue
        uses = [each for value in found.values() if isinstance(value, list) for each in value]
        for use in (found, *uses):
            if not isinstance(use, dict):
                continue
            for member in ("call_count", "total_cputime", "total_time"):
                percent = max(percent, _number(use.get(member)))
            minutes = max(minutes, _number(use.get("estimated_time_to_regain_access")))
    return percent, minutes


_usage: Final = msgspec.json.Decoder(dict[str, Any])


def _number(value: Any) -> float:
    # The bound is for JSON's numbers that are none of a header's (1e300).
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e9
    return float(value) if usable else 0.0
