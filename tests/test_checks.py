"""Checks of a panel: stale data, gaps, constant columns and negative values, through real files."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import meter
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from meter import AS_OF, HOURS, assert_refused, edit, problems, rows, without

from data.catalog import DataSet
from data.checks import _missing, gaps
from data.contract import check
from data.errors import DataRefused
from data.panel import Panel

Declare = Callable[..., DataSet]


@pytest.fixture
def declare(tmp_path: Path) -> Declare:
    return partial(meter.declare, tmp_path)


@given(st.lists(st.booleans(), max_size=40))
def test_gaps_are_the_runs_of_true(missing: list[bool]) -> None:
    firsts, lasts = gaps(np.array(missing, dtype=bool))
    runs = [step for first, last in zip(firsts, lasts, strict=True) for step in range(first, last + 1)]
    assert runs == np.flatnonzero(missing).tolist()
    assert (firsts[1:] > lasts[:-1] + 1).all()


def test_missing_steps_and_values_are_masked(declare: Declare) -> None:
    frame = edit(without(rows(), 30, 32), 50, load=None)
    checked = check(declare(edit(frame, 60, wind=None)), AS_OF)
    assert problems(checked) == [
        "steps without a value, masked; the longest gap is 3 "
        "(column load, first at 2024-01-02 06:00+00:00, 4 times)",
        "steps without a value, masked; the longest gap is 3 "
        "(column wind, first at 2024-01-02 06:00+00:00, 4 times)",
    ]
    assert np.flatnonzero(~checked.panel.observed[:, 0]).tolist() == [30, 31, 32, 53]
    assert np.flatnonzero(~checked.panel.observed[:, 1]).tolist() == [30, 31, 32, 63]


def test_missing_values_name_the_longest_gap_its_series_and_time(declare: Declare) -> None:
    frame = edit(rows(series=("a", "b")), slice(HOURS + 30, HOURS + 32), load=None)
    frame = edit(frame, slice(HOURS + 40, HOURS + 43), load=None)
    assert problems(check(declare(edit(frame, HOURS + 50, load=None), series="site"), AS_OF)) == [
        "steps without a value, masked; the longest gap is 3, from 2024-01-02 16:00+00:00 of series b "
        "(series b, column load, first at 2024-01-02 06:00+00:00, 6 times)"
    ]
    frame = edit(frame, 20, load=None)
    assert problems(check(declare(edit(frame, HOURS + 50, load=None), series="site"), AS_OF)) == [
        "steps without a value, masked; the longest gap is 3, from 2024-01-02 16:00+00:00 of series b "
        "(series a, column load, first at 2024-01-01 20:00+00:00, 7 times)"
    ]


def test_columns_that_miss_the_same_steps_are_one_finding(declare: Declare) -> None:
    frame = without(rows(), 30, 32)
    assert problems(check(declare(frame), AS_OF)) == [
        "steps without a value in all 2 columns, masked; the longest gap is 3 "
        "(first at 2024-01-02 06:00+00:00, 3 times)"
    ]


def test_columns_that_miss_the_same_steps_are_named_beside_others(make_panel: Callable[..., Panel]) -> None:
    panel = make_panel(steps=50, covariates=("wind", "sun"))
    values = panel.values.copy()
    values[10:12, 1:] = np.nan
    values[20, 0] = np.nan
    assert [str(finding) for finding in _missing(replace(panel, values=values))] == [
        "steps without a value, masked; the longest gap is 1 (column load, first at 2024-01-01 20:00+00:00)",
        "steps without a value in 2 columns (wind, sun), masked; the longest gap is 2 "
        "(first at 2024-01-01 10:00+00:00, 2 times)",
    ]


def test_nan_is_missing(declare: Declare, tmp_path: Path) -> None:
    frame = edit(rows(), 40, load=float("nan"))
    declared = declare(frame)
    assert "NaN" in (tmp_path / "meter.csv").read_text()
    checked = check(declared, AS_OF)
    assert np.flatnonzero(~checked.panel.observed[:, 0]).tolist() == [40]
    assert problems(checked) == [
        "steps without a value, masked; the longest gap is 1 (column load, first at 2024-01-02 16:00+00:00)"
    ]


def test_an_older_gap_over_the_limit_is_reported(declare: Declare) -> None:
    checked = check(declare(without(rows(), 20, 25)), AS_OF)
    assert "a gap of 6 steps, masked (column load, first at 2024-01-01 20:00+00:00)" in problems(checked)
    assert not any("a gap of" in text for text in problems(check(declare(without(rows(), 20, 24)), AS_OF)))


def test_a_gap_in_the_newest_steps_is_refused(declare: Declare) -> None:
    """The newest steps are lookback 12, validation 24 and judge 24: from step 60 on."""
    assert check(declare(without(rows(), 90, 94)), AS_OF).panel.n_steps == HOURS
    assert_refused(
        declare(without(rows(), 90, 95)),
        "A gap of 6 steps to 2024-01-04 23:00+00:00",
        time="2024-01-04 18:00+00:00",
        remedy="`gaps: {longest: ...}` in the catalog",
    )
    assert check(declare(without(rows(), 90, 95), gaps={"longest": "6h"}), AS_OF).panel.n_steps == HOURS


def test_only_the_part_of_a_gap_in_the_newest_steps_counts(declare: Declare) -> None:
    checked = check(declare(without(rows(), 50, 64)), AS_OF)
    assert "a gap of 15 steps, masked (column load, first at 2024-01-03 02:00+00:00)" in problems(checked)
    assert_refused(
        declare(without(rows(), 50, 65)),
        "A gap of 6 steps",
        time="2024-01-03 12:00+00:00",
        remedy="fill it in",
    )


def test_a_gap_of_one_series_names_it(declare: Declare) -> None:
    frame = edit(rows(series=("a", "b")), slice(2 * HOURS - 6, None), load=None)
    assert_refused(
        declare(frame, series="site"),
        "A gap of 6 steps",
        series="b",
        time="2024-01-05 18:00+00:00",
        remedy="`exclude: [b]`",
    )


def test_a_gap_of_a_series_that_begins_late_is_told_at_its_time(declare: Declare) -> None:
    frame = without(rows(series=("a", "b")), HOURS, HOURS + 9)
    older = check(declare(edit(frame, slice(HOURS + 20, HOURS + 26), load=None), series="site"), AS_OF)
    assert "a gap of 6 steps, masked (series b, column load, first at 2024-01-02 06:00+00:00)" in problems(
        older
    )
    assert_refused(
        declare(edit(frame, slice(HOURS + 70, HOURS + 76), load=None), series="site"),
        "A gap of 6 steps to 2024-01-04 13:00+00:00",
        series="b",
        time="2024-01-04 08:00+00:00",
        remedy="`exclude: [b]`",
    )


def test_a_constant_target_is_refused(declare: Declare) -> None:
    assert_refused(
        declare(edit(rows(), slice(0, 72), load=3.0)),
        "constant at 3 over the training data",
        time="2024-01-01 00:00+00:00",
        remedy="name another target",
    )
    assert check(declare(edit(rows(), slice(0, 71), load=3.0)), AS_OF).findings == ()
    assert_refused(
        declare(edit(rows(series=("a", "b")), slice(HOURS, HOURS + 72), load=3.0), series="site"),
        "constant at 3",
        series="b",
        time="2024-01-01 00:00+00:00",
        remedy="`exclude: [b]`",
    )


def test_constant_targets_are_refused_together_with_a_remedy_to_paste(declare: Declare) -> None:
    names = ("a", "b", "no", "d", "e", "f", "g", "1", "x, y")
    frame = rows(series=names)
    for number in range(1, len(names)):
        frame = edit(frame, slice(number * HOURS, number * HOURS + 72), load=3.0)
    with pytest.raises(DataRefused) as refused:
        check(declare(frame, series="site", exclude=["g"]), AS_OF)
    assert "Likewise b (constant at 3), d (constant at 3), e (constant at 3), f (constant at 3), " in str(
        refused.value
    )
    assert "no (constant at 3) and 1 more." in refused.value.problem
    pasted = re.search(r"`(.*)` in the catalog, or repair them", refused.value.remedy)
    assert pasted is not None
    assert pasted[1] == "exclude: [g, '1', b, d, e, f, 'no', 'x, y']"
    keys = yaml.safe_load(pasted[1])
    assert check(declare(frame, series="site", **keys), AS_OF).panel.series == ("a",)


def test_where_all_series_are_constant_another_target_is_the_remedy(declare: Declare) -> None:
    assert_refused(
        declare(edit(rows(series=("a", "b")), slice(None), load=3.0), series="site"),
        "constant at 3 over the training data: there is nothing to learn. Likewise b (constant at 3).",
        series="a",
        time="2024-01-01 00:00+00:00",
        remedy="name another target",
    )


def test_a_target_without_a_value_in_the_training_span_is_refused(declare: Declare) -> None:
    frame = edit(rows(), slice(1, 72), load=None)
    assert_refused(
        declare(frame, gaps={"longest": "4w"}, retrain={"train": "24h"}),
        "never observed over the training data",
        time="2024-01-03 00:00+00:00",
        remedy="name another target",
    )


def test_a_constant_covariate_is_reported(declare: Declare) -> None:
    constant = check(declare(edit(rows(), slice(0, 72), wind=1.5)), AS_OF)
    assert problems(constant) == ["constant at 1.5 over the training data (column wind)"]
    assert check(declare(edit(rows(), slice(0, 71), wind=1.5)), AS_OF).findings == ()


def test_constant_counts_within_the_training_span(declare: Declare) -> None:
    """With `train` of a day the span is steps 48 to 71, both included."""
    frame = rows(series=("a", "b"))
    keys = {"series": "site", "retrain": {"train": "24h"}}
    constant = check(declare(edit(frame, slice(HOURS + 48, HOURS + 72), wind=0.0), **keys), AS_OF)
    assert problems(constant) == ["constant at 0 over the training data (series b, column wind)"]
    for varied in (slice(HOURS + 49, HOURS + 72), slice(HOURS + 48, HOURS + 71)):
        assert check(declare(edit(frame, varied, wind=0.0), **keys), AS_OF).findings == ()


def test_a_covariate_never_observed_is_reported(declare: Declare) -> None:
    checked = check(declare(edit(rows(), slice(0, 72), wind=None)), AS_OF)
    assert "never observed over the training data (column wind)" in problems(checked)


def test_negative_values_of_a_non_negative_target_are_reported(declare: Declare) -> None:
    frame = edit(rows(), slice(3, 5), load=-2.0)
    assert problems(check(declare(frame, non_negative=True), AS_OF)) == [
        "values below 0 of a target declared non_negative; forecasts stop at 0 "
        "(column load, first at 2024-01-01 03:00+00:00, 2 times)"
    ]
    assert check(declare(frame), AS_OF).findings == ()
    zero = edit(rows(), slice(3, 5), load=0.0)
    assert check(declare(zero, non_negative=True), AS_OF).findings == ()


def test_stale_data_is_refused(declare: Declare) -> None:
    keys = {"clock": "wall", "gaps": {"longest": "4w"}, "staleness": "2d"}
    just = AS_OF + np.timedelta64(48, "h")
    assert check(declare(rows(), **keys), just).panel.n_steps == HOURS + 48
    assert_refused(
        declare(rows(), **keys),
        "Stale: the newest value is 2.04 days older than the last complete step, 2024-01-08 00:00+00:00",
        time="2024-01-05 23:00+00:00",
        remedy="`publication_delay:`",
        as_of=just + np.timedelta64(1, "h"),
    )
    assert_refused(
        declare(rows(), **{**keys, "staleness": "1h"}),
        "the newest value is 3 hours older",
        time="2024-01-05 23:00+00:00",
        remedy="`clock: data`",
        as_of=AS_OF + np.timedelta64(3, "h"),
    )


def test_an_as_of_in_the_future_is_told_from_a_source_that_stopped(declare: Declare) -> None:
    assert_refused(
        declare(rows(), gaps={"longest": "999w"}),
        "The as-of 2998-01-01 00:00+00:00 lies in the future, 355,742 days after the newest value",
        time="2024-01-05 23:00+00:00",
        remedy="give an as-of that is not after 2024-01-05 23:00+00:00",
        as_of=np.datetime64("2998-01-01T00", "us"),
    )


@pytest.mark.parametrize(("hours", "words"), [(47, "47 hours"), (48, "2 days"), (24 * 244, "244 days")])
def test_ages_as_a_person_says_them(declare: Declare, hours: int, words: str) -> None:
    assert_refused(
        declare(rows(), clock="wall", staleness="1h"),
        f"the newest value is {words} older",
        time="2024-01-05 23:00+00:00",
        remedy="has stopped",
        as_of=AS_OF + np.timedelta64(hours, "h"),
    )


def test_rows_without_values_do_not_make_data_fresh(declare: Declare) -> None:
    frame = edit(rows(), slice(-49, None), load=None)
    assert_refused(
        declare(frame, staleness="2d"), "Stale", time="2024-01-03 22:00+00:00", remedy="has stopped"
    )


def test_one_fresh_series_keeps_the_data_fresh(declare: Declare) -> None:
    frame = edit(rows(series=("a", "b")), slice(-3, None), load=None)
    assert check(declare(frame, series="site", staleness="1h"), AS_OF).panel.n_steps == HOURS
