"""From PostgreSQL's records to the domain's rows.

A `Reader` knows the columns of one Struct type: what to select for it, and how a record becomes one. JSON
columns arrive as text and are parsed here, once; times are milliseconds already (`storage.databases`).
"""

from collections.abc import Mapping
from typing import Any, Final, Generic, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

T = TypeVar("T", bound=Struct)

parse_json: Final = msgspec.json.Decoder().decode


class Reader(Generic[T]):
    """Reads `type` from records that have at least its fields as columns.

    Fields that are not in the table must be given to `read`; name them in `given`.
    """

    def __init__(self, type: type[T], *, given: tuple[str, ...] = ()) -> None:  # noqa: A002
        self._type = type
        hints = get_type_hints(type)
        names = [name for name in type.__struct_fields__ if name not in given]
        self._fields = [(name, _conversion(hints[name])) for name in names]
        self._names = names

    def columns(self, table: str = "") -> str:
        """The columns to select, for a table (or its alias)."""
        prefix = f"{table}." if table else ""
        return ", ".join(prefix + name for name in self._names)

    def read(self, record: Mapping[str, Any], **given: Any) -> T:
        values = given
        for name, convert in self._fields:
            value = record[name]
            values[name] = value if convert is None or value is None else convert(value)
        return self._type(**values)


def _conversion(hint: Any) -> Any:
    alternatives = [part for part in get_args(hint) if part is not type(None)]
    kind = hint if get_origin(hint) in (dict, list, tuple) or not alternatives else alternatives[0]
    origin = get_origin(kind)
    if kind is Any or origin is dict:
        return parse_json
    return tuple if origin is tuple else None
