"""How lines and stories look on a terminal. Everything here only turns values into rich's Text and Table."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec
from rich.table import Table
from rich.text import Text

from gateway.logs.lines import Line
from gateway.logs.story import Story

_STYLES: Final[Mapping[str, str]] = {
    "debug": "dim",
    "info": "green",
    "warning": "yellow",
    "error": "bold red",
    "critical": "bold white on red",
}
_SHOWN_APART: Final = frozenset(("ts", "level", "event", "exception"))


def line_text(line: Line) -> Text:
    """One line: time, level, event, then the fields; a traceback on lines of its own."""
    text = Text(no_wrap=True, overflow="ignore")
    text.append(_clock(line.at_ms), "dim")
    text.append(f" {_printable(line.level):8}", _STYLES.get(line.level, ""))
    text.append(f" {_printable(line.event):28}", "bold")
    _append_fields(text, line, without=_SHOWN_APART)
    _append_traceback(text, line)
    return text


def story_table(story: Story) -> Table:
    """The steps with their times; what all of them share stands in the title."""
    shared = _shared(story)
    title = f"trace {_printable(story.trace)}"
    title += "".join(f"  {name} {_shown(value)}" for name, value in shared.items())
    # As Text, since a plain string would be searched for markup.
    table = Table(title=Text(title, "bold"), title_justify="left", box=None, pad_edge=False)
    table.add_column("at (UTC)", style="dim", no_wrap=True)
    table.add_column("in all", justify="right", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("event", no_wrap=True)
    table.add_column("what it says", overflow="fold")
    longest = story.longest
    for step in story.steps:
        line = step.line
        details = Text()
        _append_fields(details, line, without=_SHOWN_APART | {"trace", "traces"} | shared.keys())
        _append_traceback(details, line)
        table.add_row(
            _clock(line.at_ms),
            duration(step.since_start_ms),
            Text(duration(step.since_previous_ms), "bold yellow" if step is longest else ""),
            Text(_printable(line.event), _STYLES.get(line.level, "bold")),
            details,
        )
    return table


def story_summary(story: Story) -> str:
    """One sentence for the end: how many steps, how long, and where the time went."""
    sentence = f"{len(story.steps)} steps"
    if story.total_ms is not None:
        sentence += f" in {duration(story.total_ms)}"
    longest = story.longest
    if longest is not None and len(story.steps) > 2:
        event = _printable(longest.line.event)
        sentence += f"; the longest wait, {duration(longest.since_previous_ms)}, was for {event}"
    if story.left_out:
        sentence += f"; {story.left_out} later lines are not shown"
    return sentence


def duration(ms: int | None) -> str:
    """Milliseconds for people: `+12 ms`-sized things in ms, then seconds, minutes, hours."""
    if ms is None:
        return ""
    if ms < 1000:
        return f"{ms} ms"
    if ms < 60_000:
        return f"{ms / 1000:.2f} s"
    minutes, seconds = divmod(ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def _shared(story: Story) -> dict[str, object]:
    """Tenant and conversation, where every line that names one names the same."""
    shared: dict[str, object] = {}
    for name in ("tenant", "conversation"):
        values = [step.line.fields[name] for step in story.steps if name in step.line.fields]
        if values and all(value == values[0] for value in values):
            shared[name] = values[0]
    return shared


def _append_fields(text: Text, line: Line, without: frozenset[str]) -> None:
    for name, value in line.fields.items():
        if name in without:
            continue
        text.append(f" {_printable(name)}=", "cyan")
        text.append(_shown(value))


def _append_traceback(text: Text, line: Line) -> None:
    if isinstance(traceback := line.fields.get("exception"), str):
        for row in traceback.splitlines():
            text.append("\n    " + _printable(row), "red")


def _shown(value: object) -> str:
    return _printable(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def _printable(text: str) -> str:
    """Without control characters: a log holds what strangers sent, and a terminal obeys what it is sent."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _clock(at_ms: int | None) -> str:
    if at_ms is None:
        return "--:--:--.---"
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    return f"{at:%H:%M:%S}.{at_ms % 1000:03}"
