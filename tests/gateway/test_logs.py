"""`mijra logs`: parsing, filters, the story of a message, following, and the command itself."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli import main
from gateway.logs.filters import Filter
from gateway.logs.lines import LINE_BYTES_MAX, FollowingReader, Line, LineReader, parse_line
from gateway.logs.story import STEPS_MAX, tell_story
from gateway.logs.view import duration, story_summary


def raw(ms: int, event: str, **fields: object) -> bytes:
    ts = f"2026-03-01T09:00:{ms // 1000:02}.{ms % 1000:03}Z"
    return json.dumps({"ts": ts, "level": "info", "event": event, **fields}).encode()


# One message from webhook to receipt, in the order in which two busy processes might have written it,
# among lines of others and lines of nobody.
LOG = b"\n".join(
    [
        raw(0, "webhook.accepted", trace="t1", tenant=7, body_bytes=812),
        raw(1, "webhook.accepted", trace="t2", tenant=8),
        b"Traceback (most recent call last):",
        raw(14, "batch.committed", traces=["t1", "t2"], tenants=[7, 8], rows=9),
        b'["json", "but no line"]',
        raw(12, "conversation.committed", trace="t1", tenant=7, conversation=41, seq=3),
        raw(15, "push.published", trace="t1", tenant=7, conversation=41),
        raw(2000, "outbox.sending", trace="t1", tenant=7, conversation=41, level="warning"),
        raw(2180, "outbox.sent", trace="t1", tenant=7, conversation=41, status=200),
        b"{truncated",
        raw(3500, "status.updated", trace="t1", tenant=7, conversation=41, status="read"),
        b"",
    ]
)


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    path = tmp_path / "mijra.log"
    path.write_bytes(LOG)
    return path


def run(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["logs", *arguments], input=stdin, env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


def line(ms: int, event: str, **fields: object) -> Line:
    parsed = parse_line(raw(ms, event, **fields))
    assert parsed is not None
    return parsed


def test_lines_that_are_not_ours_are_passed_over_and_counted(log_file: Path) -> None:
    """Tracebacks, cut lines and foreign JSON cost nothing but a count."""
    with log_file.open("rb") as stream:
        reader = LineReader(stream)
        assert len(list(reader)) == 8
    assert (reader.read, reader.passed_over) == (11, 3)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    """Anything at all is a line or None."""
    parsed = parse_line(data)
    assert parsed is None or isinstance(parsed.event, str)


def test_nesting_beyond_reason_is_passed_over() -> None:
    """A line of a hundred thousand brackets is not ours."""
    assert parse_line(b'{"event":"x","v":' + b"[" * 100_000) is None


def test_a_line_beyond_the_limit_is_one_bad_line(tmp_path: Path) -> None:
    """Memory stays bounded, and the next line is read as if nothing had been."""
    path = tmp_path / "log"
    path.write_bytes(b'{"event":"' + b"x" * (2 * LINE_BYTES_MAX) + b'"}\n' + raw(1, "next"))
    with path.open("rb") as stream:
        reader = LineReader(stream)
        assert [found.event for found in reader] == ["next"]
    assert (reader.read, reader.passed_over) == (2, 1)


@pytest.mark.parametrize(
    ("wanted", "events"),
    [
        (Filter(), 8),
        (Filter(tenant="8"), 2),
        (Filter(tenant="7", event="webhook.*"), 1),
        (Filter(conversation="41"), 5),
        (Filter(trace="t2"), 2),
        (Filter(level="warning"), 1),
        (Filter(level="info"), 8),
        (Filter(event="batch.committed", tenant="9"), 0),
    ],
)
def test_every_condition_must_hold(wanted: Filter, events: int, log_file: Path) -> None:
    """Ids match as text, plural lists count as every id in them, levels as "at least"."""
    with log_file.open("rb") as stream:
        assert sum(wanted.wants(found) for found in LineReader(stream)) == events


def test_a_story_is_in_order_of_time_with_both_durations() -> None:
    """Written out of order, told in order; a batch that carried the message is a step of it."""
    story = tell_story("t1", [found for item in LOG.splitlines() if (found := parse_line(item))])
    assert [(step.line.event, step.since_start_ms, step.since_previous_ms) for step in story.steps] == [
        ("webhook.accepted", 0, None),
        ("conversation.committed", 12, 12),
        ("batch.committed", 14, 2),
        ("push.published", 15, 1),
        ("outbox.sending", 2000, 1985),
        ("outbox.sent", 2180, 180),
        ("status.updated", 3500, 1320),
    ]
    assert story.total_ms == 3500
    assert story.longest is story.steps[4]
    assert story_summary(story) == "7 steps in 3.50 s; the longest wait, 1.99 s, was for outbox.sending"


def test_lines_without_a_time_stay_where_they_were() -> None:
    """They are told behind the line they followed, without durations."""
    untimed = parse_line(b'{"event":"untimed","trace":"t"}')
    local = parse_line(b'{"event":"local","trace":"t","ts":"2026-03-01T09:00:00"}')
    assert untimed is not None
    assert local is not None
    story = tell_story("t", [line(5, "b", trace="t"), untimed, local, line(1, "a", trace="t")])
    assert [step.line.event for step in story.steps] == ["a", "b", "untimed", "local"]
    assert [step.since_previous_ms for step in story.steps] == [None, 4, None, None]


def test_lines_of_one_millisecond_keep_their_order() -> None:
    """The order of writing is the best there is."""
    story = tell_story("t", [line(1, name, trace="t") for name in "cab"])
    assert [step.line.event for step in story.steps] == ["c", "a", "b"]


def test_a_story_is_bounded_and_says_so() -> None:
    """Beyond the limit lines are counted, not kept."""
    story = tell_story("t", (line(1, "again", trace="t") for _ in range(STEPS_MAX + 3)))
    assert len(story.steps) == STEPS_MAX
    assert "3 later lines are not shown" in story_summary(story)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (None, ""),
        (0, "0 ms"),
        (999, "999 ms"),
        (1000, "1.00 s"),
        (61_000, "1 min 01 s"),
        (7_260_000, "2 h 01 min"),
    ],
)
def test_durations_are_for_people(ms: int | None, text: str) -> None:
    """Each size in the unit that one would say."""
    assert duration(ms) == text


def test_the_command_filters_a_file(log_file: Path) -> None:
    """Matching lines on standard output, what was passed over on standard error."""
    code, out, err = run(str(log_file), "--event", "outbox.*")
    assert code == 0
    assert [row.split()[2] for row in out.splitlines()] == ["outbox.sending", "outbox.sent"]
    assert "conversation=41" in out
    assert err == "11 lines read, 3 passed over because they are not ours\n"


def test_the_command_reads_standard_input_and_passes_json_through() -> None:
    """With --json the lines come out as they went in."""
    code, out, _ = run("--tenant", "8", "--json", stdin=LOG)
    assert code == 0
    expected = [item for item in LOG.splitlines() if b'"t2"' in item]
    assert out.encode().splitlines() == expected


def test_the_command_tells_the_life_of_a_message(log_file: Path) -> None:
    """One row for each step, in order, with the time it took, and a summary."""
    code, out, _ = run(str(log_file), "--trace", "t1")
    assert code == 0
    rows = out.splitlines()
    assert rows[0].strip() == "trace t1  tenant 7  conversation 41"
    assert "12 ms" in next(row for row in rows if "conversation.committed" in row)
    assert "1.99 s" in next(row for row in rows if "outbox.sending" in row)
    assert rows.index(next(row for row in rows if "outbox.sent" in row)) > rows.index(
        next(row for row in rows if "batch.committed" in row)
    )
    assert rows[-1].startswith("7 steps in 3.50 s")


def test_a_story_in_json_carries_the_durations(log_file: Path) -> None:
    """For programs: each line with its two durations."""
    code, out, _ = run(str(log_file), "--trace", "t1", "--json")
    assert code == 0
    steps = [json.loads(row) for row in out.splitlines()]
    assert [step["since_previous_ms"] for step in steps] == [None, 12, 2, 1, 1985, 180, 1320]
    assert steps[-1]["since_start_ms"] == 3500


def test_an_unknown_trace_ends_with_status_one(log_file: Path) -> None:
    """It says how much was searched."""
    code, _, err = run(str(log_file), "--trace", "nowhere")
    assert code == 1
    assert "no line carries the trace nowhere (11 lines read" in err


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    """No traceback for a typing mistake."""
    code, out, err = run(str(tmp_path / "none.log"))
    assert (code, out) == (1, "")
    assert err == f"Error: {tmp_path / 'none.log'}: No such file or directory\n"


def test_what_strangers_sent_cannot_steer_the_terminal() -> None:
    """Control characters and bidirectional overrides are shown, not obeyed; markup is text."""
    code, out, _ = run(stdin=raw(1, "x", note="\x1b[2J\u202e[red]", odd=["\x1b"]))
    assert code == 0
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert r"\x1b[2J\u202e[red]" in out
    strange = "\x1b[red]"
    told = b"\n".join(raw(ms, strange, trace="[red]", tenant="[red]\x1b") for ms in (1, 2, 9))
    code, out, _ = run("--trace", "[red]", stdin=told)
    assert code == 0
    assert "\x1b" not in out
    assert "trace [red]  tenant [red]\\x1b" in out
    assert r"was for \x1b[red]" in out


def follow(path: Path, *happenings: Callable[[], object]) -> tuple[list[str], FollowingReader]:
    """Events that a follower sees while each happening takes place at one of its waits."""
    todo = list(happenings)

    def wait() -> None:
        if not todo:
            raise KeyboardInterrupt
        todo.pop(0)()

    reader = FollowingReader(path, wait)
    seen = []
    try:
        for found in reader:
            seen.append(found.event)
    except KeyboardInterrupt:
        reader.close()
    return seen, reader


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(data)


def test_following_sees_what_is_added_and_waits_for_whole_lines(tmp_path: Path) -> None:
    """Half a line is held back until its other half arrives."""
    path = tmp_path / "log"
    path.write_bytes(raw(1, "a") + b"\n")
    whole = raw(2, "b") + b"\n"
    seen, reader = follow(
        path,
        lambda: append(path, whole[:20]),
        lambda: append(path, whole[20:]),
        lambda: append(path, b"noise\n" + raw(3, "c") + b"\n"),
    )
    assert seen == ["a", "b", "c"]
    assert reader.passed_over == 1


def test_following_survives_both_ways_of_rotation(tmp_path: Path) -> None:
    """A renamed file is finished first, then its successor read; a file cut short is read anew."""
    path = tmp_path / "log"
    path.write_bytes(raw(1, "old") + b"\n")
    old = tmp_path / "log.1"

    def rename() -> None:
        path.rename(old)
        append(old, raw(2, "late") + b"\n")

    seen, _ = follow(
        path,
        rename,
        lambda: path.write_bytes(raw(3, "new") + b"\n" * 200),
        lambda: path.write_bytes(raw(4, "cut") + b"\n"),
    )
    assert seen == ["old", "late", "new", "cut"]


def test_following_bounds_an_endless_line(tmp_path: Path) -> None:
    """A line without end is one bad line, whatever its length."""
    path = tmp_path / "log"
    path.write_bytes(b"x" * (3 * LINE_BYTES_MAX))
    seen, reader = follow(path, lambda: append(path, b"x\n" + raw(1, "after") + b"\n"))
    assert seen == ["after"]
    assert (reader.read, reader.passed_over) == (2, 1)
