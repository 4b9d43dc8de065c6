"""What requests may contain: shared field types, and decoding with errors that name the field.

Bodies and queries are msgspec Structs that forbid unknown members: a misspelt `asigned_to` must not be taken
for "no filter". Wire Structs live with their routes; here is only what several share.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from engine.domain.ids import ID_MAX
from engine.errors import InvalidInput
from gateway.paging import LIMIT_DEFAULT, LIMIT_MAX

T = TypeVar("T")

END: Final = r"$(?!\n)"
"""Of a pattern: the end of the text. `$` alone lets a line feed through at the end, and the next header or
log line would begin there."""

Id = Annotated[int, Meta(ge=1, le=ID_MAX)]
Name = Annotated[str, Meta(min_length=1, max_length=120)]
Moment = Annotated[datetime, Meta(tz=True, description="RFC 3339 with a time zone")]
Ids = Annotated[list[Id], Meta(min_length=1, max_length=100)]
"""A hundred at once: one screen of an inbox, and a bulk call stays well inside the request's deadline."""

Email = Annotated[str, Meta(min_length=3, max_length=254, pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+" + END)]
"""RFC 5321 bounds the length. Whether the address exists, only mail to it can tell."""


class Input(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all bodies and queries."""


class PageQuery(Input, frozen=True, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT
    cursor: Annotated[str, Meta(max_length=512)] | None = None


class NoQuery(Input, frozen=True, kw_only=True):
    """A route without parameters refuses them, like any other unknown member."""


def milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


def decode_body(raw: bytes, kind: type[T]) -> T:
    """The body as `kind`. No body at all counts as `{}`, for calls whose members are all optional.

    Raises InvalidInput: code not_json for what is not JSON, else validation_failed with the field."""
    try:
        # Typed decoding stops at the first wrong member, so what follows might not even be JSON.
        msgspec.json.decode(raw or b"{}", type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput("The body is not JSON.", code="not_json") from error
    except RecursionError as error:
        raise InvalidInput("The body is nested too deeply.", code="not_json") from error
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput("The body is not JSON that can be used.", code="not_json") from error


def decode_query(values: Iterable[tuple[str, str]], kind: type[T]) -> T:
    """The query's values as `kind`; numbers and booleans are read from their text. Raises InvalidInput, also
    for a name that comes twice: whichever value were taken, the client may have meant the other."""
    named: dict[str, str] = {}
    for name, value in values:
        if name in named:
            raise invalid(name, "Is given more than once.")
        named[name] = value
    try:
        decoded = msgspec.convert(named, type=kind, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid(error) from error
    for name, value in named.items():
        # Reading numbers from text, msgspec also reads seconds since 1970 as a time.
        if isinstance(getattr(decoded, name), datetime) and not _DATE.match(value):
            raise invalid(name, "Expected an RFC 3339 time with a time zone.")
    return decoded


def invalid(field: str, sentence: str) -> InvalidInput:
    """One wrong field that only the handler can judge."""
    return InvalidInput(f"{field}: {sentence}", fields={field: [sentence]})


_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")
_AT: Final = re.compile(r"^(?P<what>.*?)(?: - at `\$?(?P<path>.*)`)?$", re.DOTALL)
_NAMED: Final = re.compile(
    r"^Object (?P<problem>missing required|contains unknown) field `(?P<field>.*)`$", re.DOTALL
)


def _invalid(error: msgspec.ValidationError) -> InvalidInput:
    """msgspec says where in its sentence: "Expected `int`, got `str` - at `$.options[0].id`"."""
    match = _AT.match(str(error))
    what, path = (match["what"], match["path"] or "") if match else (str(error), "")
    named = _NAMED.match(what)
    if named:
        path = f"{path}.{named['field']}"
        what = "Is required." if named["problem"].startswith("missing") else "Is not known here."
    else:
        what = what if what.endswith(".") else what + "."
    field = path.lstrip(".").replace("[...]", "") or "body"
    return InvalidInput(f"{field}: {what}", fields={field: [what]})


def given(body: Struct) -> dict[str, Any]:
    """The members of a PATCH-like body that were sent (their default is UNSET)."""
    members = ((name, getattr(body, name)) for name in body.__struct_fields__)
    return {name: value for name, value in members if value is not msgspec.UNSET}
