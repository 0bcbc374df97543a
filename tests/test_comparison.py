"""What is compared: the same windows for all, lookbacks that fit, records that come back, and costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from comparisons import HORIZON, LOOKBACKS, NETWORKS, comparison, declared, ground
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import DataRefused
from data.panel import Panel
from data.retrain import Budget
from lstm.comparison.bench import baselines, make_bench
from lstm.comparison.contenders import Contender, WrongComparison, compared, contenders, lookbacks_of, only
from lstm.comparison.cost import measure
from lstm.comparison.records import Records
from lstm.windows import shared_windows, windows

MakePanel = Callable[..., Panel]
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15)


@SHARED
@given(seed=st.integers(0, 50), missing=st.sampled_from([0.0, 0.2, 0.5]))
def test_everybody_is_judged_where_every_lookback_has_a_window(
    make_panel: MakePanel, seed: int, missing: float
) -> None:
    made = ground(make_panel(steps=900, series=("a", "b"), missing=missing, seed=seed, first_steps=(0, 500)))
    chosen = make_bench(made).windows
    for lookback in LOOKBACKS:
        own = windows(made.panel, made.splits.judge, lookback, HORIZON)
        assert np.isin(chosen.origins, own.origins).all()
    assert chosen.steps.min() >= made.splits.judge.first - 1
    assert made.learned.last < made.splits.judge.first


def test_windows_of_one_lookback_are_shared_with_nobody(make_panel: MakePanel) -> None:
    made = ground(make_panel(steps=900, missing=0.3))
    span = made.splits.validation
    alone = shared_windows(made.panel, span, [24], HORIZON)
    np.testing.assert_array_equal(alone.origins, windows(made.panel, span, 24, HORIZON).origins)


def test_no_common_window_is_refused(make_panel: MakePanel) -> None:
    made = ground(make_panel(steps=900))
    made.panel.values[-240 - 48 :] = np.nan
    with pytest.raises(DataRefused, match="no window of 6 steps can be judged"):
        make_bench(made)


def test_the_judge_span_does_not_touch_what_the_baselines_learn(make_panel: MakePanel) -> None:
    made = ground(make_panel(steps=900))
    bench = make_bench(made)
    before = baselines(made, bench)
    values = made.panel.values.copy()
    # The last horizon is nobody's input.
    values[-HORIZON:] *= 3
    changed = replace(made, panel=replace(made.panel, values=values))
    for one, other in zip(before, baselines(changed, make_bench(changed)), strict=True):
        np.testing.assert_array_equal(one.forecast_WHQ, other.forecast_WHQ)
        assert one.validation_mae == other.validation_mae


@pytest.mark.parametrize(
    ("lookback", "segments", "expected"),
    [
        (48, [12], (12, 24, 48)),
        (336, [24], (96, 168, 336)),
        (24, [24], (24,)),
        (2, [1], (2,)),
    ],
)
def test_lookbacks_that_fit(lookback: int, segments: list[int], expected: tuple[int, ...]) -> None:
    space = {"lookback": [lookback], "segment_length": segments}
    data_set = declared(retrain={"horizon": 6, "validation": "6d", "judge": "10d", "search_space": space})
    assert lookbacks_of(data_set) == expected


def test_each_contender_has_the_space_but_for_its_network_and_lookback() -> None:
    data_set = compared(declared(), NETWORKS, LOOKBACKS).with_budget(Budget(trials=3, minutes=0.5))
    everyone = contenders(data_set)
    assert len({one.name for one in everyone}) == len(NETWORKS) * len(LOOKBACKS)
    for one in everyone:
        space = only(data_set, one).retrain.search_space
        assert (space.cell, space.lookback) == ((one.network,), (one.lookback,))
        assert space.hidden_size == declared().retrain.search_space.hidden_size
        assert only(data_set, one).retrain.budget == Budget(trials=3, minutes=0.5)


@pytest.mark.parametrize(("networks", "lookbacks"), [((), (24,)), (("tcn",), (24,)), (("gru",), (1,))])
def test_a_comparison_that_cannot_be_made_says_what_to_do(
    networks: tuple[str, ...], lookbacks: tuple[int, ...]
) -> None:
    with pytest.raises(WrongComparison, match="Remedy: "):
        compared(declared(), networks, lookbacks)  # type: ignore[arg-type]


def test_a_lookback_that_a_segment_length_does_not_divide_is_refused() -> None:
    """Single steps instead would make it another network, and ten times as slow."""
    with pytest.raises(WrongComparison, match=r"lookback 10 .* segment_length 12.*Remedy: .*multiples of 12"):
        compared(declared(), ["gru"], [10])


def test_the_lookback_of_a_network_is_the_one_that_validation_liked(make_panel: MakePanel) -> None:
    made = comparison(make_panel(steps=900))
    assert {one.network for one in made.favourites} == {*NETWORKS, "linear", "seasonal_naive"}
    for one in made.favourites:
        own = [other.validation_loss for other in made.results if other.network == one.network]
        assert one.validation_loss == min(own)
    assert [one.mae.mean for one in made.favourites] == sorted(one.mae.mean for one in made.favourites)
    assert made.recommendation.best == made.favourites[0].network


def test_seeds_are_averaged_not_combined(make_panel: MakePanel) -> None:
    made = comparison(make_panel(steps=900), seeds=3)
    for one in made.results:
        assert one.mae.mean == pytest.approx(np.mean(one.seeds), rel=0.02)
        assert len(one.seeds) == (3 if one.searched else 1)


def test_numbers_are_json_also_where_little_is_known(make_panel: MakePanel) -> None:
    short = declared(
        retrain={
            "horizon": 6,
            "validation": "6d",
            "judge": "12h",
            "search_space": {"lookback": [24], "segment_length": [12]},
        }
    )
    made = comparison(make_panel(steps=900, missing=0.2), short)
    told = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert told["results"][0]["mae"]["low"] is None
    assert told["recommendation"]["sureness"] == "unsure"


def test_records_come_back(tmp_path: Path, make_panel: MakePanel) -> None:
    made = comparison(make_panel(steps=900))
    one, contender = made.results[0], contenders(made.ground.data_set)[0]
    assert one.cost is not None
    assert one.searched is not None
    records = Records(tmp_path, contender)
    assert not records.is_done(0)
    records.save_cost(one.cost)
    records.save_search(one.searched)
    z_WHQ = np.random.default_rng(0).normal(size=(4, 6, 5)).astype(np.float32)
    records.save_forecast(0, z_WHQ, 1.5)
    assert records.is_done(0)
    assert not records.is_done(1)
    again = Records(tmp_path, contender)
    assert (again.cost(), again.searched(), again.training_seconds(0)) == (one.cost, one.searched, 1.5)
    np.testing.assert_array_equal(again.forecast(0), z_WHQ)


def test_a_longer_lookback_costs_more_than_nothing(make_panel: MakePanel) -> None:
    made = ground(make_panel(steps=900))
    cost = measure(made, Contender("gru", 24), torch.device("cpu"))
    assert 0 < cost.epoch_seconds < 60
    assert cost.windows_per_second > 0
    assert cost.base_megabytes > 50
    assert 0 <= cost.training_megabytes < 1000
    assert cost.parameters > 1000
