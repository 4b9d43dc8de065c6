"""The histogram against sorted lists."""

import json
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.histogram import Histogram, milliseconds

values = st.lists(st.integers(0, 2**42), min_size=1, max_size=200)


@given(values, st.floats(0, 1))
def test_a_percentile_is_never_too_low_and_hardly_too_high(recorded: list[int], share: float) -> None:
    """At most 1/128 above the value that sorting finds, and exact below 256."""
    exact = sorted(recorded)[max(1, ceil(share * len(recorded))) - 1]
    found = Histogram(recorded).at(share)
    assert exact <= found <= exact + exact // 128
    if exact < 256:
        assert found == exact


@given(values)
def test_extremes_count_and_mean_are_exact(recorded: list[int]) -> None:
    """Only what lies between the extremes is rounded."""
    histogram = Histogram(recorded)
    assert (histogram.smallest, histogram.largest, len(histogram)) == (
        min(recorded),
        max(recorded),
        len(recorded),
    )
    assert histogram.at(1) == max(recorded)
    assert histogram.mean == pytest.approx(sum(recorded) / len(recorded))


@given(values, values)
def test_merging_is_recording_both(first: list[int], second: list[int]) -> None:
    """Two histograms merged answer as one that saw everything."""
    merged, whole = Histogram(first), Histogram(first + second)
    merged.merge(Histogram(second))
    assert list(merged.curve()) == list(whole.curve())
    assert (merged.smallest, merged.largest, len(merged)) == (whole.smallest, whole.largest, len(whole))


@given(values)
def test_the_curve_rises_to_everything(recorded: list[int]) -> None:
    """Values and shares rise strictly, the last share is the whole and the last value the largest."""
    curve = list(Histogram(recorded).curve())
    assert all(low[0] < high[0] and low[1] < high[1] for low, high in pairwise(curve))
    assert curve[-1] == (max(recorded), 1.0)


def test_an_empty_histogram_answers_zero() -> None:
    """No division by zero in a table of a run in which nothing was acknowledged."""
    empty = Histogram()
    assert (empty.at(0.99), empty.mean, empty.smallest, empty.largest, list(empty.curve())) == (
        0,
        0.0,
        0,
        0,
        [],
    )


def test_values_outside_the_range_are_kept_at_its_ends() -> None:
    """A clock that went back counts as zero; nine hours count as the limit of 2.4."""
    histogram = Histogram([-5, 9 * 3600 * 10**9])
    assert (histogram.smallest, histogram.largest) == (0, 2**43 - 1)


def test_a_share_outside_zero_and_one_is_refused() -> None:
    """99 for 0.99 is a mistake, not a percentile."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        Histogram([1]).at(99)


def test_milliseconds_are_rounded_to_the_microsecond() -> None:
    """1,234,567 ns are 1.235 ms."""
    assert milliseconds(1_234_567) == 1.235


def test_what_is_packed_is_unpacked_alike() -> None:
    histogram = Histogram([5, 1_000, 70_000_000, 70_000_001])
    again = Histogram.unpacked(json.loads(json.dumps(histogram.packed())))
    assert list(again.curve()) == list(histogram.curve())
    assert (len(again), again.smallest, again.largest, again.mean) == (4, 5, 70_000_001, histogram.mean)
    assert len(Histogram.unpacked(Histogram().packed())) == 0
