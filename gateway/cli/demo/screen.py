"""What the demo shows: a live table on a terminal, plain lines everywhere else."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from adapters.registry import adapters
from gateway.cli.demo.reconciliation import Check
from gateway.cli.demo.tally import Counts, Line, Share

PLAIN_EVERY_SECONDS: Final = 2.0
LIVE_EVERY_SECONDS: Final = 0.25
PROBLEMS_SHOWN: Final = 5
COLUMNS: Final = ("received", "acknowledged", "stored", "pushed", "sent", "delivered", "read")


class Screen:
    """`show` as often as `every_seconds`; everything said in between by `say` stays above the table."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None

    @property
    def every_seconds(self) -> float:
        return LIVE_EVERY_SECONDS if self._console.is_terminal else PLAIN_EVERY_SECONDS

    @contextmanager
    def open(self) -> Iterator[None]:
        """The table stands from here to the end of the block; its last state stays on the screen."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, auto_refresh=False) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, state: str, seconds: float, counts: Counts, lines: Sequence[Line]) -> None:
        if self._live is None:
            self.say(plain(state, seconds, counts))
            return
        table = Table(title=f"{state}, {seconds:.0f} s", title_justify="left", expand=False)
        for name in (*COLUMNS, "p50 ms", "p99 ms"):
            table.add_column(name, justify="right")
        table.add_row(
            *(str(getattr(counts, name)) for name in COLUMNS), _ms(counts.p50_ms), _ms(counts.p99_ms)
        )
        self._live.update(Group(table, *map(_talk, lines)), refresh=True)

    def shares(self, shares: Mapping[str, Share]) -> None:
        """The one inbox, by channel."""
        table = Table(title="The inbox, by channel", title_justify="left")
        table.add_column("channel")
        for name in ("conversations", "received", "replies"):
            table.add_column(name, justify="right")
        for name, each in adapters().items():
            if (share := shares.get(name)) is not None:
                counts = (len(share.conversations), share.received, share.replies)
                table.add_row(each.platform.label, *map(str, counts))
        self._console.print(table)

    def checks(self, checks: Sequence[Check]) -> None:
        """The reconciliation, with the first problems of each check that found some."""
        table = Table(title="Reconciliation", title_justify="left")
        table.add_column("check")
        table.add_column("looked at", justify="right")
        table.add_column("result")
        for check in checks:
            result = Text("clean", "green") if check.clean else Text(f"{len(check.problems)} wrong", "red")
            table.add_row(check.name, str(check.looked_at), result)
        self._console.print(table)
        for check in checks:
            for problem in check.problems[:PROBLEMS_SHOWN]:
                self.say(f"  {check.name}: {problem}")
            if len(check.problems) > PROBLEMS_SHOWN:
                self.say(f"  {check.name}: and {len(check.problems) - PROBLEMS_SHOWN} more")


def plain(state: str, seconds: float, counts: Counts) -> str:
    """One line with everything that the table has."""
    numbers = "  ".join(f"{name} {getattr(counts, name)}" for name in COLUMNS)
    return f"{seconds:4.0f} s  {state}: {numbers}  p50 {_ms(counts.p50_ms)} ms  p99 {_ms(counts.p99_ms)} ms"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _talk(line: Line) -> Text:
    """`channel customer: text`, or the same with the agent who answered."""
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{line.platform} ", "dim").append(line.customer, "cyan")
    if line.agent is not None:
        text.append(" ← ").append(line.agent, "green")
    return text.append(": ").append(line.text.replace("\n", " "))
