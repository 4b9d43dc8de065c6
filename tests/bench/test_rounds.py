"""What stands between a figure and a wrong one: the proof after each round, the contract of the output."""

import json
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from bench import ingest, latency, memory, neighbour, outbox, pacing
from bench.all import Run, page, present, rows
from bench.client import Outcome
from bench.harness import Contest, as_json
from bench.rounds import QUICK_SECONDS_MAX, Unproven, compare, flat, quick_seconds

ROOT = Path(__file__).parent.parent.parent
CONTRACT = {"bench", "ours", "unit", "peers", "limit", "ratios", "rounds", "spread", "machine"}


def outcome(sent: int, acknowledged: list[int]) -> Outcome:
    made = Outcome()
    made.sent, made.acknowledged = sent, len(acknowledged)
    made.acknowledged_numbers = array("q", acknowledged)
    return made


def test_acknowledged_and_stored_once_is_proven() -> None:
    """Also when something that was not acknowledged is stored: its sender does not know, and asks again."""
    compare("x", "stored", outcome(4, [0, 1, 2]), Counter([0, 1, 2]))
    compare("x", "stored", outcome(4, [0, 1, 2]), Counter([0, 1, 2, 3]))


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        ([0, 1], "1 were not stored"),
        ([0, 1, 2, 2], "1 were stored more than once"),
        ([0, 1, 2, 7], "1 were never sent"),
        ([0, 1, 2, None], "1 were never sent"),
    ],
)
def test_a_difference_ends_the_bench(found: list[int | None], complaint: str) -> None:
    """Lost, doubled, or not ours: each is named with its number."""
    with pytest.raises(Unproven, match=complaint):
        compare("x", "stored", outcome(4, [0, 1, 2]), Counter(found))


async def test_a_quick_round_shrinks_with_the_time_that_is_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """All of the wish at first, less later, and never nothing."""
    began = trio.current_time()
    assert quick_seconds(began, 10, 2.0, overhead=1.0) == 2.0
    await trio.sleep(QUICK_SECONDS_MAX - 20)
    assert quick_seconds(began, 10, 2.0, overhead=1.0) == pytest.approx(1.0)
    await trio.sleep(60)
    assert quick_seconds(began, 10, 2.0, overhead=1.0) == 0.3


def test_grouped_failures_are_told_one_by_one() -> None:
    """A nursery within a nursery hides none."""
    inner = ExceptionGroup("", [ValueError("a"), ExceptionGroup("", [KeyError("b")])])
    assert [type(one) for one in flat(inner)] == [ValueError, KeyError]


QUESTIONS: dict[str, Callable[[], list[Contest]]] = {
    "ingest": ingest.contests,
    "latency": lambda: latency.contests(1000),
    "memory": lambda: list(memory.contests().values()),
    "neighbour": neighbour.contests,
    "outbox": lambda: list(outbox.contests().values()),
    "pacing": pacing.contests,
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_json_line_keeps_the_contract(name: str) -> None:
    """Every member is there, the limit is the headline's, and who is missing has no figure."""
    questions = QUESTIONS[name]()
    for question in questions:
        question.results["mijra"] = [10.0, 30.0, 20.0]
        question.missing["fastapi stack"] = "not installed: arq"
    questions[0].results["load client alone"] = [100.0, 80.0, 90.0]
    answer = json.loads(as_json(name, questions))
    assert answer.keys() >= CONTRACT
    assert (answer["bench"], answer["ours"], answer["rounds"], answer["spread"]) == (name, 20, 3, [10, 30])
    assert answer["limit"] == (90 if name in ("ingest", "latency") else None)
    assert all(question["unit"] for question in answer["contests"].values())
    assert len(answer["contests"]) == len(questions), "two questions of one name"
    assert "fastapi stack" not in answer["peers"]
    assert answer["missing"] == {"fastapi stack": "not installed: arq"}


def test_the_results_page_has_figures_failures_and_who_is_missing() -> None:
    """One row for each question; a failed bench keeps its last words."""
    questions = ingest.contests()
    for question in questions:
        question.results |= {"mijra": [1000.0], "fastapi stack": [500.0]}
        question.missing["load client alone"] = "httptools is not installed"
    result = json.loads(as_json("ingest", questions))
    headline = rows(result["contests"]["durable acknowledgements"])
    assert "| **mijra** | **1,000** | 1,000 – 1,000 | |" in headline
    assert "| fastapi stack | 500 | 500 – 500 | 2.00 |" in headline
    assert "| load client alone | missing | | |" in headline
    runs = [Run("ingest", 3, result, ""), Run("storage", 1, None, "no room")]
    text = page(runs, quick=True, pictures="plots")
    assert "Failed:\n\n```\nno room" in text
    assert (
        "| [ingest](#ingest) | durable acknowledgements (per second) | at least 3,300 | 1,000 | **missed** |"
        in text
    )
    assert "- ingest: load client alone (httptools is not installed)" in text
    assert "![ingest](plots/ingest.png)" in text
    assert "plots/storage.png" not in text
    for question in questions:
        assert text.count(f"**{question.name[:1].upper()}{question.name[1:]}** (") == 1


def test_a_goal_that_may_never_be_broken_is_judged_by_its_worst_round() -> None:
    """Elsewhere the median decides."""
    never = Contest(name="x", unit="windows", ours="a", contestants={}, goal=0, less_is_better=True)
    never.results = {"a": [0, 0, 1], "b": [0, 0, 0]}
    assert never.met()
    never.every_round = True
    assert not never.met()
    assert never.ratio("b") is None, "nothing can be divided by nothing"


def test_every_listed_bench_explains_itself() -> None:
    """`python -m bench` lists what is there, and each answers --help."""
    listed = subprocess.run(
        [sys.executable, "-m", "bench"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in present():
        assert f"bench.{name} " in listed
    assert {"ingest", "latency", "mailbox", "memory", "neighbour", "outbox", "pacing"} <= set(present())
