"""Outliers: wild cells and values that stand for missing ones are reported, what demand is like is not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import meter
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from meter import AS_OF, HOURS, edit, problems, rows

from data.calendar import Frequency
from data.catalog import SHIPPED, DataSet, load_catalog
from data.contract import check, resolve_as_of
from data.outliers import outliers
from data.panel import Floats, Panel

Declare = Callable[..., DataSet]


@pytest.fixture
def declare(tmp_path: Path) -> Declare:
    return partial(meter.declare, tmp_path)


def found(values: Floats) -> list[str]:
    """The findings of a panel of one series with these targets."""
    panel = Panel(
        data_set="made",
        frequency=Frequency("h"),
        target="load",
        covariates=(),
        series=("",),
        start=np.datetime64("2024-01-01", "us"),
        first_steps=np.zeros(1, dtype=np.int64),
        offsets=np.array([0, values.size]),
        values=values[:, None],
    )
    return [str(finding) for finding in outliers(panel)]


def wave(steps: int, seed: int = 0) -> Floats:
    noise = np.random.default_rng(seed).normal(0, 10, steps)
    return 200 + 80 * np.sin(np.arange(steps) / 24 * 2 * np.pi) + noise


@pytest.mark.parametrize("column", ["load", "wind"])
@pytest.mark.parametrize("wild", [1e9, -1e9, 65535.0])
def test_one_wild_cell_is_reported(declare: Declare, column: str, wild: float) -> None:
    [problem] = problems(check(declare(edit(rows(), 40, **{column: wild})), AS_OF))
    usual = "9 to 11" if column == "load" else "-1 to 1"
    assert problem == (
        f"{wild:.0f} lies far outside the usual {usual}; leave it empty in the source if it is an error "
        f"(column {column}, first at 2024-01-02 16:00+00:00)"
    )


def test_a_value_that_stands_for_a_missing_one_is_reported_once_a_column(declare: Declare) -> None:
    frame = rows(series=("a", "b", "c"))
    for first in (5, 20, 33, 47, 60):
        for start in (HOURS, 2 * HOURS):
            frame = edit(frame, start + first, load=-9999.0)
    assert problems(check(declare(frame, series="site"), AS_OF)) == [
        "-9999 lies far outside the usual 10 to 12, as do values of 1 more series; leave it empty in the "
        "source if it is an error (series b, column load, first at 2024-01-01 05:00+00:00, 10 times)"
    ]


@given(
    seed=st.integers(0, 99),
    wild=st.one_of(st.floats(3e4, 1e308), st.floats(-1e308, -3e4)),
    share=st.floats(0.005, 0.19),
)
def test_both_kinds_are_found_wherever_they_stand(seed: int, wild: float, share: float) -> None:
    values = wave(1000, seed)
    places = np.random.default_rng(seed).permutation(1000)[: int(1000 * share) + 1]
    values[places[0]] = wild
    values[places[1:]] = -9999
    [problem] = found(values)
    assert problem.endswith(f"{len(places)} times)")
    assert "-9999 to" not in problem


@given(seed=st.integers(0, 10_000), steps=st.integers(10, 3000))
def test_what_demand_is_like_is_not_reported(seed: int, steps: int) -> None:
    draw = np.random.default_rng(seed)
    step, orders = np.arange(steps), draw.poisson(3, steps)
    usual = draw.random(steps)
    for values in (
        np.where(usual < 0.9, 0, orders),
        np.where(usual < 0.97, 0, np.where(usual < 0.99, orders, 200)),
        np.where(usual < 0.9, 0, np.where(usual < 0.99, draw.integers(1, 9, steps), 100)),
        np.exp(draw.normal(0, 2, steps)),
        draw.standard_t(2, steps),
        np.where(usual < 0.95, 0, draw.gamma(0.3, 5, steps)).round(1),
        np.where(step < 0.98 * steps, draw.normal(1000, 1, steps), 1500),
        np.where(step < 0.99 * steps, draw.normal(100, 10, steps), draw.normal(1000, 100, steps)),
        np.where(usual < 0.98, 0, 1),
        np.where(usual < 0.99, 199.0, 49.0),
        np.full(steps, 7),
        np.full(steps, np.nan),
    ):
        assert found(values.astype(float)) == []


def test_an_empty_space_is_what_counts() -> None:
    """A hundred times as far from the median as any other, and at least fifty values."""
    values = np.tile([9.0, 10.0, 11.0], 30)
    for wild, count in ((10 + 99.0, 0), (10 + 219.0, 1), (1e6, 1)):
        assert len(found(np.where(np.arange(90) == 5, wild, values))) == count
    assert found(np.where(np.arange(45) == 5, 1e6, values[:45])) == []


def test_the_sample_has_none() -> None:
    data_set = load_catalog(SHIPPED).get("household_power")
    assert not any("far outside" in text for text in problems(check(data_set, resolve_as_of(data_set))))
