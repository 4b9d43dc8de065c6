"""SQL lives in files, one named statement after another; this module reads them.

A file under `storage/sql/` holds statements like

    -- name: insert_messages
    -- What it does and what it relies on, in a line or two.
    INSERT INTO messages …;

Promises   a name is found or the import of its user fails; a statement without a description is refused,
           so that the database's logs can be read with the file beside them.
Leaves     running them to the callers. Migrations are not read here but by `storage.migrate`.
"""

import re
from importlib.resources import files

from msgspec import Struct

_HEAD = re.compile(r"^-- name: ([a-z][a-z0-9_]*)$", re.MULTILINE)


class Statement(Struct, frozen=True):
    """`sql` is the text without its comments; `parameters` the number of its `$n`."""

    name: str
    description: str
    sql: str
    parameters: int


def load_statements(file_name: str) -> dict[str, Statement]:
    """The statements of one file, by name. Raises ValueError for a file that breaks the form above."""
    text = files("storage").joinpath("sql", file_name).read_text("utf-8")
    parts = _HEAD.split(text)
    found: dict[str, Statement] = {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        lines = body.strip().splitlines()
        comments = [line.removeprefix("--").strip() for line in lines if line.startswith("--")]
        sql = "\n".join(line for line in lines if not line.startswith("--")).strip().removesuffix(";")
        if not comments or not sql or name in found:
            raise ValueError(f"{file_name}: {name} needs a description, a statement and a name of its own")
        numbers = {int(number) for number in re.findall(r"\$(\d+)", sql)}
        if numbers != set(range(1, len(numbers) + 1)):
            raise ValueError(f"{file_name}: the parameters of {name} have holes: {sorted(numbers)}")
        found[name] = Statement(name, " ".join(comments), sql, len(numbers))
    return found


def load_sql(file_name: str) -> dict[str, str]:
    """Only the texts of `load_statements`."""
    return {name: statement.sql for name, statement in load_statements(file_name).items()}
