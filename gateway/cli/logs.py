"""`mijra logs`: filter, follow and explain the server's JSON lines."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console

from gateway.logs.filters import LEVELS, Filter
from gateway.logs.lines import FollowingReader, Line, LineReader
from gateway.logs.story import Story, tell_story
from gateway.logs.view import line_text, story_summary, story_table

STANDARD_INPUT: Final = Path("-")


@click.command("logs")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), default=STANDARD_INPUT)
@click.option("--tenant", help="Only lines of this tenant.")
@click.option("--conversation", help="Only lines of this conversation.")
@click.option("--trace", help="Tell the life of the message with this request id, with durations.")
@click.option("--event", metavar="PATTERN", help="Only these events; a pattern such as 'webhook.*' works.")
@click.option("--level", type=click.Choice(list(LEVELS)), help="Only lines at least this severe.")
@click.option("--follow", "-f", is_flag=True, help="At the end of the file, wait for more.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines out, for another program.")
def command(
    file: Path,
    tenant: str | None,
    conversation: str | None,
    trace: str | None,
    event: str | None,
    level: str | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Read the log from FILE, or from standard input without one.

    Lines that are not ours are passed over and counted. With --trace the lines are told as a story, in order
    and with the time between them; with --json too, each gets since_start_ms and since_previous_ms. Followed,
    they come as they are written. Ends with status 1 when a trace is nowhere to be found.
    """
    wanted = Filter(tenant=tenant, conversation=conversation, trace=trace, event=event, level=level)
    reader = _reader(file, follow)
    chosen = (line for line in reader if wanted.wants(line))
    try:
        if trace is None or follow:
            _print_lines(chosen, as_json)
        else:
            story = tell_story(trace, chosen)
            if not story.steps:
                raise click.ClickException(f"no line carries the trace {trace} ({_read(reader)})")
            _print_story(story, as_json)
    except KeyboardInterrupt:
        pass  # the usual end of --follow
    finally:
        reader.close()
    if reader.passed_over:
        click.echo(_read(reader), err=True)


def _reader(file: Path, follow: bool) -> LineReader:
    if file == STANDARD_INPUT:
        if sys.stdin.isatty():
            raise click.UsageError("Name a FILE, or pipe a log into this command.")
        return LineReader(sys.stdin.buffer)
    try:
        return FollowingReader(file) if follow else LineReader(file.open("rb"))
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}") from None


def _print_lines(lines: Iterable[Line], as_json: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    out = sys.stdout.buffer
    for line in lines:
        if as_json:
            out.write(line.raw + b"\n")
            out.flush()
        else:
            console.print(line_text(line))


def _print_story(story: Story, as_json: bool) -> None:
    if not as_json:
        console = Console(highlight=False)
        console.print(story_table(story))
        console.print(story_summary(story), style="dim", markup=False)
        return
    out = sys.stdout.buffer
    for step in story.steps:
        told = step.line.fields | {
            "since_start_ms": step.since_start_ms,
            "since_previous_ms": step.since_previous_ms,
        }
        out.write(msgspec.json.encode(told) + b"\n")


def _read(reader: LineReader) -> str:
    return f"{reader.read} lines read, {reader.passed_over} passed over because they are not ours"
