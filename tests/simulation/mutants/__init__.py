"""Planted bugs: edits of the program's own code, each of which breaks one promise.

Each `*.edit` file is a sentence and one or more replacements, written to survive ordinary edits nearby:

    What the bug is, in a sentence.
    ==== path/of/file.py
    the text that is there, exactly once
    ---- becomes
    the text of the bug

`python -m tests.simulation.mutants` plants each into a copy of the tree and runs seeds until one is broken.
"""

from pathlib import Path
from typing import Final

from msgspec import Struct

HERE: Final = Path(__file__).parent


class Edit(Struct, frozen=True):
    path: str
    old: str
    new: str


class Mutant(Struct, frozen=True):
    name: str
    description: str
    edits: tuple[Edit, ...]

    def plant(self, tree: Path) -> None:
        """Into the copy at `tree`. Raises LookupError where the code is no longer what it was."""
        for path, text in self.planted(tree).items():
            (tree / path).write_text(text)

    def planted(self, tree: Path) -> dict[str, str]:
        """The files with the bug, by path; nothing is written. Raises LookupError like `plant`."""
        files: dict[str, str] = {}
        for edit in self.edits:
            text = files[edit.path] if edit.path in files else (tree / edit.path).read_text()
            if text.count(edit.old) != 1:
                raise LookupError(f"{self.name}: {edit.path} does not have its lines exactly once")
            files[edit.path] = text.replace(edit.old, edit.new)
        return files


def all_mutants() -> list[Mutant]:
    return [_read(path) for path in sorted(HERE.glob("*.edit"))]


def _read(path: Path) -> Mutant:
    head, *blocks = path.read_text().split("\n==== ")
    edits = []
    for block in blocks:
        name, _, rest = block.partition("\n")
        old, _, new = rest.partition("\n---- becomes")
        edits.append(Edit(name.strip(), old, new.strip("\n")))
    return Mutant(path.stem, head.strip(), tuple(edits))
