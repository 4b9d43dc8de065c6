"""The life of one message: what the log says of one trace, in order, with the time between the steps.

Pure. It knows no event's name: whatever carries the trace is a step, so a new step in the engine shows up
here by itself.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from gateway.logs.lines import Line

# A message has a dozen steps, one that is retried for a day some hundreds.
STEPS_MAX: Final = 10_000


class Step(Struct, frozen=True):
    """One line of the story. Both durations are None where a line had no usable time."""

    line: Line
    since_start_ms: int | None
    since_previous_ms: int | None


class Story(Struct, frozen=True):
    """`left_out` counts the lines beyond `STEPS_MAX` that were not kept."""

    trace: str
    steps: Sequence[Step]
    left_out: int = 0

    @property
    def total_ms(self) -> int | None:
        """From the first step to the last; None when fewer than two have a time."""
        timed = [step.since_start_ms for step in self.steps if step.since_start_ms is not None]
        return timed[-1] if len(timed) > 1 else None

    @property
    def longest(self) -> Step | None:
        """The step that was waited for the longest, if any time passed at all."""
        waited = [step for step in self.steps if step.since_previous_ms]
        return max(waited, key=lambda step: step.since_previous_ms or 0, default=None)


def tell_story(trace: str, lines: Iterable[Line]) -> Story:
    """The story of `trace` out of any lines, in the order of their times.

    Lines of one millisecond stay in the order in which they were written; a line without a time stays
    behind the one that it followed in the log.
    """
    kept: list[tuple[int, Line]] = []
    left_out = 0
    latest = 0
    for line in lines:
        if not line.carries("trace", trace):
            continue
        if len(kept) == STEPS_MAX:
            left_out += 1
            continue
        latest = latest if line.at_ms is None else line.at_ms
        kept.append((latest, line))
    kept.sort(key=lambda pair: pair[0])  # stable

    steps = []
    start: int | None = None
    previous: int | None = None
    for _, line in kept:
        if line.at_ms is None:
            steps.append(Step(line, None, None))
            continue
        if start is None or previous is None:
            start = previous = line.at_ms
            steps.append(Step(line, 0, None))
        else:
            steps.append(Step(line, line.at_ms - start, line.at_ms - previous))
            previous = line.at_ms
    return Story(trace, steps, left_out)
