"""The regression check: which ratios are compared, and when one is a regression."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from bench import check
from bench.check import Record, Recorded, Verdict, compare, ratios_of, recorded
from bench.harness import Contest, as_json


def result(
    ours: float, peer: float | None = 100.0, *, less: bool = False, why: str = "not installed"
) -> dict[str, Any]:
    """A bench's line with one question, as the benches print it."""
    question = Contest(name="speed", unit="per second", ours="mijra", contestants={}, less_is_better=less)
    question.results = {"mijra": [ours]}
    if peer is None:
        question.missing["peer"] = why
    else:
        question.results["peer"] = [peer]
    found: dict[str, Any] = json.loads(as_json("b", [question]))
    return found


def record(**ratios: Recorded) -> Record:
    return Record(
        taken="2026-01-01", machine={}, ratios={f"b / {name} / peer": one for name, one in ratios.items()}
    )


def only(verdicts: list[Verdict]) -> Verdict:
    (one,) = verdicts
    return one


def test_a_ratio_has_a_name_and_a_better_side() -> None:
    """What is zero has no ratio, so nothing to compare."""
    assert ratios_of(result(300.0)) == {"b / speed / peer": (3.0, False)}
    assert ratios_of(result(300.0, less=True)) == {"b / speed / peer": (3.0, True)}
    assert ratios_of(result(0.0)) == ratios_of(result(300.0, 0.0)) == {}


@pytest.mark.parametrize(
    ("now", "regressed"), [(300.0, False), (500.0, False), (230.0, False), (226.0, False), (224.0, True)]
)
def test_worse_by_more_than_the_tolerance_is_a_regression(now: float, regressed: bool) -> None:
    """Recorded 3.0, between 2.7 and 2.9 at worst: 15 % of 3.0 below the lowest; better is never one."""
    kept = record(speed=Recorded(ratio=3.0, low=2.7, high=2.9))
    assert only(list(compare(kept, [result(now)]))).regressed is regressed


@pytest.mark.parametrize(("now", "regressed"), [(20.0, False), (50.0, False), (58.0, True)])
def test_where_less_is_better_more_is_a_regression(now: float, regressed: bool) -> None:
    """A time of 0.4 to 0.48 of the peer's."""
    kept = record(speed=Recorded(ratio=0.45, low=0.4, high=0.48, less_is_better=True))
    assert only(list(compare(kept, [result(now, less=True)]))).regressed is regressed


def test_records_that_differ_much_allow_as_much_again() -> None:
    """Between 2 and 4: only below nothing at all; the spread says that this ratio tells little."""
    wide = Recorded(ratio=3.0, low=2.0, high=4.0)
    assert wide.worst() == 0
    narrow = Recorded(ratio=3.0, low=3.0, high=3.0)
    assert narrow.worst() == pytest.approx(3.0 * 0.85)


def test_faster_and_slower_machines_give_the_same_verdict() -> None:
    """A tenth of every time: nothing is compared but the quotient."""
    kept = record(speed=Recorded(ratio=3.0, low=3.0, high=3.0))
    for scale in (0.1, 1.0, 10.0):
        assert not only(list(compare(kept, [result(300 * scale, 100 * scale)]))).regressed
        assert only(list(compare(kept, [result(200 * scale, 100 * scale)]))).regressed


def test_a_missing_peer_is_named_and_skipped() -> None:
    kept = record(speed=Recorded(ratio=3.0, low=3.0, high=3.0))
    one = only(list(compare(kept, [result(1.0, None, why="not installed: celery")])))
    assert (one.now, one.note, one.regressed) == (None, "not installed: celery", False)


def test_a_new_question_is_named_and_an_old_one_too() -> None:
    """Neither is a regression; other benches' records are not looked at."""
    kept = record(old=Recorded(ratio=3.0, low=3.0, high=3.0))
    kept.ratios["elsewhere / speed / peer"] = kept.ratios["b / old / peer"]
    verdicts = {one.name: one for one in compare(kept, [result(300.0)])}
    assert verdicts.keys() == {"b / old / peer", "b / speed / peer"}
    assert verdicts["b / old / peer"].note == "not asked any more"
    assert "not recorded" in verdicts["b / speed / peer"].note
    assert not any(one.regressed for one in verdicts.values())


def test_a_record_holds_the_middle_and_the_range_of_its_runs() -> None:
    runs: list[Mapping[str, Any]] = [result(ours) for ours in (310.0, 290.0, 300.0)]
    assert recorded(runs) == {"b / speed / peer": Recorded(ratio=3.0, low=2.9, high=3.1)}


def ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, *figures: float) -> str | int | None:
    """What `main` exits with when the bench gives these figures, one run after the other."""
    kept = record(speed=Recorded(ratio=3.0, low=3.0, high=3.0))
    path = tmp_path / "ratios.json"
    path.write_bytes(msgspec.json.encode(kept))
    runs = iter(figures)
    monkeypatch.setattr(check, "run", lambda names: [result(next(runs)) for _ in names])
    monkeypatch.setattr("sys.argv", ["bench.check", "--file", str(path), "--only", "mailbox"])
    try:
        check.main()
    except SystemExit as error:
        return error.code
    return 0


def test_only_what_is_slower_twice_is_a_regression(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """One slow minute is looked at again; twice slow ends with a sentence and exit status 1."""
    assert ended(monkeypatch, tmp_path, 300.0) == 0
    assert ended(monkeypatch, tmp_path, 100.0, 300.0) == 0
    assert "b / speed / peer" in str(ended(monkeypatch, tmp_path, 100.0, 100.0))
