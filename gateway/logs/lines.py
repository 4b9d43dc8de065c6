"""One line of the log, and how lines are read from a file that may still be growing.

Promises   memory for one line at a time, and never more than `LINE_BYTES_MAX` of it; what is not one of our
           lines (a crash's traceback, another program's output) is counted and passed over.
Leaves     choosing and showing to the others in this package.
"""

import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct

# Ours are a few hundred bytes, with a deep traceback some ten thousand; a longer "line" is a binary file.
LINE_BYTES_MAX: Final = 1024 * 1024
# Short enough to feel live, long enough to cost nothing.
POLL_SECONDS: Final = 0.2

_DECODER: Final = msgspec.json.Decoder(dict[str, object])


class Line(Struct, frozen=True):
    """A parsed line. `at_ms` is None when its `ts` is missing or not a time; `raw` is the line as it came."""

    at_ms: int | None
    level: str
    event: str
    fields: dict[str, object]
    raw: bytes

    def carries(self, name: str, wanted: str) -> bool:
        """Whether the field `name` is `wanted`, or the list in the field's plural holds it.

        A line about a batch says `traces`, one about a message `trace`; compared as text, since an id may be
        a number in the log and is always text on the command line.
        """
        one = self.fields.get(name)
        if one is not None and str(one) == wanted:
            return True
        many = self.fields.get(name + "s")
        return isinstance(many, list) and any(str(item) == wanted for item in many)


def parse_line(raw: bytes) -> Line | None:
    """The line, or None when it is not a JSON object with an `event`."""
    try:
        fields = _DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    event = fields.get("event")
    if not isinstance(event, str):
        return None
    return Line(_milliseconds(fields.get("ts")), str(fields.get("level", "info")), event, fields, raw.strip())


class LineReader:
    """Lines of a binary stream, one after the other; `passed_over` counts those that were not ours."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.read = 0
        self.passed_over = 0

    def __iter__(self) -> Iterator[Line]:
        for raw in self._whole_lines():
            yield from self._take(raw)

    def close(self) -> None:
        self._stream.close()

    def _whole_lines(self) -> Iterator[bytes]:
        while raw := self._stream.readline(LINE_BYTES_MAX):
            if len(raw) == LINE_BYTES_MAX and not raw.endswith(b"\n"):
                self._skip_rest()
                raw = b"\0"
            yield raw

    def _skip_rest(self) -> None:
        while (more := self._stream.readline(LINE_BYTES_MAX)) and not more.endswith(b"\n"):
            pass

    def _take(self, raw: bytes) -> Iterator[Line]:
        if not raw.strip():
            return
        self.read += 1
        line = parse_line(raw)
        if line is None:
            self.passed_over += 1
        else:
            yield line


class FollowingReader(LineReader):
    """Lines of a file that grows, for ever: at its end it waits for more.

    A file that was replaced (rotated by renaming) or cut short (rotated by copying) is read anew from its
    start. A last line without its end is held back until the rest arrives. `wait` is called between looks.
    """

    def __init__(self, path: Path, wait: Callable[[], None] | None = None) -> None:
        self._path = path
        self._wait = wait if wait is not None else lambda: time.sleep(POLL_SECONDS)
        super().__init__(path.open("rb"))

    def __iter__(self) -> Iterator[Line]:
        held = b""
        while True:
            for piece in iter(lambda: self._stream.readline(LINE_BYTES_MAX), b""):
                held += piece
                if held.endswith(b"\n"):
                    yield from self._take(held)
                    held = b""
                elif len(held) >= LINE_BYTES_MAX:
                    # Not one of ours however it goes on. Its first byte stands in for it, so that memory
                    # stays bounded and the line is counted once, when it ends.
                    held = b"\0"
            self._wait()
            if self._reopened():
                held = b""

    def _reopened(self) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False  # between a rotation's two steps; the next look finds the new file
        here = os.fstat(self._stream.fileno())
        if there.st_ino == here.st_ino and there.st_dev == here.st_dev:
            if there.st_size >= self._stream.tell():
                return False
            self._stream.seek(0)
            return True
        # The old file may have got its last lines after we looked; they come first.
        if self._stream.tell() < here.st_size:
            return False
        self._stream.close()
        self._stream = self._path.open("rb")
        return True


def _milliseconds(ts: object) -> int | None:
    if not isinstance(ts, str):
        return None
    try:
        at = datetime.fromisoformat(ts)
    except ValueError:
        return None
    if at.tzinfo is None:
        return None  # a time without a zone cannot be put in order with others
    return round(at.timestamp() * 1000)
