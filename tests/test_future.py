"""What is known ahead, who is who, and what a forecast may see of either."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.calendar import Frequency
from data.errors import DataRefused
from data.layout import Layout
from data.panel import Panel
from data.splits import Span
from flows.forecasting import Made, write_request
from lstm.clock import calendar
from lstm.evaluation.conformal import Calibration
from lstm.models.forecaster import ForecasterConfig, build
from lstm.scaling import Scaler
from lstm.tracking.bundle import Bundle, Member, Twin
from lstm.tracking.bundle_files import load, save
from lstm.tracking.forecast import panel_of, rows_of
from lstm.tracking.registry import signature
from lstm.training.batches import Batches, Inputs
from lstm.training.lanes import Lanes, bucket
from lstm.training.recipe import Recipe, TrainingConfig
from lstm.training.trainer import Trainer
from lstm.windows import Windows, newest, windows

LOOKBACK, HORIZON, STEPS = 12, 6, 80
CPU = torch.device("cpu")


def make(seed: int = 0, missing: float = 0.1, ahead: int = HORIZON) -> Panel:
    """Three series, one late; a past and two future covariates, static features, holidays."""
    generator = np.random.default_rng(seed)
    offsets = np.array([0, STEPS, 2 * STEPS - 7, 3 * STEPS - 7])
    values = generator.standard_normal((offsets[-1], 4)) + 3
    values[generator.random(values.shape) < missing] = np.nan
    values[offsets[1:] - 1] = 1.0
    return Panel(
        data_set="made",
        frequency=Frequency("h", "Europe/Paris"),
        target="load",
        covariates=("wind",),
        series=("a", "b", "c"),
        start=np.datetime64("2023-12-31T23:00", "us"),
        first_steps=np.array([0, 7, 0]),
        offsets=offsets,
        values=values,
        future=("price", "promotion"),
        ahead=generator.standard_normal((3, ahead, 2)) + 3,
        static={"kind": ("shop", "hall", "shop"), "area": (80.0, 200.0, 90.0)},
        holidays="FR",
    )


def inputs(panel: Panel, scaler: Scaler, chosen: Windows) -> Inputs:
    batches = Batches(scaler.scale(panel, HORIZON), chosen, LOOKBACK, HORIZON, CPU)
    return Inputs(*(part.clone() for part in batches.inputs(torch.arange(len(chosen)))))


def config(panel: Panel, **keys: Any) -> ForecasterConfig:
    sizes = Scaler.fit(panel, 40).scale(panel, HORIZON).sizes
    made = ForecasterConfig("gru", 4, 1, 0.0, 4, LOOKBACK, HORIZON, (0.1, 0.5, 0.9), **sizes)
    return replace(made, **keys)


def make_bundle(panel: Panel) -> Bundle:
    torch.manual_seed(0)
    twin = Twin((build(config(panel)).state_dict(),), Scaler.fit(panel, 60), "2024-01-03T00:00:00Z")
    return Bundle(
        layout=Layout(
            "made", "when", "id", "load", ("wind",), "Europe/Paris", panel.future, tuple(panel.static), "FR"
        ),
        frequency=panel.frequency,
        seasons=(24,),
        non_negative=False,
        members=(
            Member(Recipe(config(panel), TrainingConfig(), 3), Calibration(np.ones((HORIZON, 3)), 0.0, 100)),
        ),
        judged=twin,
        served=twin,
        serves="served",
        code_version="0.1.0",
    )


def test_a_batch_holds_future_covariates_of_lookback_and_horizon() -> None:
    panel = make(missing=0.0)
    scaler = Scaler.fit(panel, 40)
    found = inputs(panel, scaler, newest(panel, LOOKBACK))
    assert found.future_BHF.shape == (3, HORIZON, 18 + 1 + 2)
    loc_SK, scale_SK = scaler.loc_SC[:, 2:], scaler.scale_SC[:, 2:]
    for number in range(3):
        rows = panel.values[panel.rows(number)][-LOOKBACK:, 2:]
        for part, own in ((found.known_BLK, rows), (found.future_BHF, panel.ahead[number])):
            scaled = (own - loc_SK[number]) / scale_SK[number]
            np.testing.assert_allclose(part[number, :, -2:], scaled, atol=1e-5)
    assert found.series_B.tolist() == [0, 1, 2]
    assert found.static_BD.shape == (3, 3)
    # 2024 begins where the grid does: its first day is a holiday, the next is not.
    assert calendar(panel.frequency, panel.start, 30, "FR").day_DF[:, -1].tolist() == [1, 0]


@given(seed=st.integers(0, 9), origin=st.integers(20, STEPS - HORIZON - 1), wrong=st.floats(-1e3, 1e3))
@settings(max_examples=25, deadline=None)
def test_of_the_future_only_declared_columns_over_the_horizon_are_seen(
    seed: int, origin: int, wrong: float
) -> None:
    """Targets and past covariates after the origin, and anything beyond the horizon, change no input."""
    panel = make(seed)
    scaler = Scaler.fit(panel, origin)
    chosen = windows(panel, Span(origin + 1, origin + HORIZON), LOOKBACK, HORIZON)
    before = inputs(panel, scaler, chosen)
    steps = np.concatenate([np.arange(first, panel.n_steps) for first in panel.first_steps])
    values = panel.values.copy()
    values[steps > origin, :2] = wrong
    values[steps > origin + HORIZON] = -wrong
    changed = replace(panel, values=values, ahead=panel.ahead + 1)
    after = inputs(changed, Scaler.fit(changed, origin), chosen)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    values[steps == origin + HORIZON, 3] += 1
    seen = inputs(replace(panel, values=values), scaler, chosen)
    assert not torch.equal(seen.future_BHF[:, -1], before.future_BHF[:, -1])
    torch.testing.assert_close(seen.future_BHF[:, :-1], before.future_BHF[:, :-1], rtol=0, atol=0)


@pytest.mark.parametrize("order", [["c", "a", "b"], ["b"], ["c", "b"]])
def test_series_and_ids_permuted_together_permute_the_forecasts(order: list[str]) -> None:
    panel = make()
    bundle = make_bundle(panel)
    whole = bundle.forecast(panel)
    some = bundle.forecast(panel.select(order))
    places = [panel.series.index(name) for name in order]
    np.testing.assert_allclose(some.values_SHQ, whole.values_SHQ[places], rtol=1e-5)


def test_who_a_series_is_changes_its_forecast() -> None:
    panel = make()
    bundle = make_bundle(panel)
    other = replace(panel, static={**panel.static, "kind": ("hall", "hall", "shop")})
    moved = np.abs(bundle.forecast(other).values_SHQ - bundle.forecast(panel).values_SHQ).max(axis=(1, 2))
    assert (moved > 1e-6).tolist() == [True, False, False]
    with pytest.raises(DataRefused, match="series x: the model was not trained on this series"):
        bundle.forecast(replace(panel, series=("a", "b", "x")))


def test_rows_that_are_served_give_the_same_forecast() -> None:
    panel = make()
    bundle = make_bundle(panel)
    rows = rows_of(panel, bundle.layout, bundle.history)
    back = panel_of(rows, bundle.layout, bundle.frequency)
    assert (back.as_of, back.future, back.holidays) == (panel.as_of, panel.future, "FR")
    assert back.static == panel.static
    np.testing.assert_array_equal(back.ahead, panel.ahead)
    one, other = bundle.forecast(back), bundle.forecast(panel)
    np.testing.assert_allclose(one.values_SHQ, other.values_SHQ, rtol=1e-5)
    inputs = signature(bundle).inputs.to_dict()
    types = {column["name"]: column["type"] for column in inputs}
    assert (types["price"], types["kind"], types["area"]) == ("double", "string", "double")


@pytest.mark.parametrize("ahead", [HORIZON, HORIZON + 3])
def test_a_request_whose_newest_targets_are_missing_gives_the_same_forecast(
    tmp_path: Path, ahead: int
) -> None:
    """A sensor that missed its last hours leaves rows without a target, as those ahead are."""
    # At the top it would come before the import that silences MLflow's own warning.
    from lstm.tracking.pyfunc import ForecastModel

    panel = make(missing=0.0, ahead=ahead)
    for number in range(3):
        panel.values[panel.rows(number)][-2:, 0] = np.nan
    bundle = make_bundle(panel)
    wanted = bundle.forecast(panel, "1")
    request = write_request(Made(wanted, bundle, panel, tmp_path / "unused"), tmp_path / "request.json")
    body = json.loads(request.read_text())
    rows = pd.DataFrame(body["dataframe_split"]["data"], columns=body["dataframe_split"]["columns"])
    rows = rows.astype({"load": float})
    model = ForecastModel()
    model.bundle = bundle
    context = mlflow.pyfunc.PythonModelContext({}, {})
    pd.testing.assert_frame_equal(model.predict(context, rows, body["params"]), wanted.to_frame(), rtol=1e-5)
    # Who does not say where the past ends gets what comes after the newest target.
    told = model.predict(context, rows)
    assert told["time"].iloc[0] < wanted.to_frame()["time"].iloc[0]
    assert signature(bundle).params.to_dict() == [
        {"name": "as_of", "type": "string", "default": "", "shape": None}
    ]


def test_an_as_of_without_its_rows_is_refused() -> None:
    panel = make()
    bundle = make_bundle(panel)
    rows = rows_of(panel, bundle.layout, bundle.history)
    for as_of, problem in (
        ("soon", "'soon' is no time"),
        ("2024-03-31T14:00", "before as_of 2024-03-31 14:00"),
        ("2023-03-31T14:00", r"series a, .*no row at or before 2023-03-31 14:00"),
    ):
        with pytest.raises(DataRefused, match=problem):
            panel_of(rows, bundle.layout, bundle.frequency, as_of)
    local = panel.frequency.format(panel.as_of)
    for as_of in (local, local[: len("2024-01-01 00:00")]):
        assert panel_of(rows, bundle.layout, bundle.frequency, as_of).as_of == panel.as_of


def test_a_horizon_that_is_not_known_is_refused() -> None:
    panel = make()
    bundle = make_bundle(panel)
    short = replace(panel, ahead=panel.ahead[:, :-2])
    message = r"series a, column price, first at 2024-01-04 12:00\+01:00: .* 2 of the 6 steps"
    with pytest.raises(DataRefused, match=message):
        bundle.forecast(short)
    hole = panel.ahead.copy()
    hole[1, 3, 1] = np.nan
    with pytest.raises(DataRefused, match="series b, column promotion, first at 2024-01-04 11:00"):
        bundle.forecast(replace(panel, ahead=hole))
    rows = rows_of(panel, bundle.layout, bundle.history)
    with pytest.raises(DataRefused, match="6 of the 6 steps"):
        bundle.forecast(panel_of(rows[rows["load"].notna()], bundle.layout, bundle.frequency))
    with pytest.raises(DataRefused, match="No row has a target"):
        panel_of(rows[rows["load"].isna()].tail(6), bundle.layout, bundle.frequency)
    of_b = (rows["id"] != "b") | (rows["when"] > "2024-01-04T08:30")
    with pytest.raises(DataRefused, match="series b, column load: The series has no row at or before"):
        panel_of(rows[of_b], bundle.layout, bundle.frequency)


def test_a_bundle_keeps_who_is_who(tmp_path: Any) -> None:
    panel = make()
    bundle = make_bundle(panel)
    loaded = load(tmp_path, save(bundle, tmp_path))
    assert loaded.layout == bundle.layout
    assert loaded.served.scaler.static == bundle.served.scaler.static
    chosen = panel.select(["c", "b"])
    np.testing.assert_array_equal(loaded.forecast(chosen).values_SHQ, bundle.forecast(chosen).values_SHQ)


@pytest.mark.usefixtures("in_float32")
def test_lanes_train_as_alone() -> None:
    panel = make(missing=0.05)
    scaled = Scaler.fit(panel, 60).scale(panel, HORIZON)
    train = windows(panel, Span(0, 60), LOOKBACK, HORIZON)
    validation = windows(panel, Span(61, STEPS - 1), LOOKBACK, HORIZON)

    def trainers() -> list[Trainer]:
        return [
            Trainer(
                config(panel, hidden_size=size),
                TrainingConfig(batch_size=64, max_epochs=2, seed=size),
                scaled,
                train,
                validation,
                CPU,
                None,
            )
            for size in (3, 5)
        ]

    alone, together = trainers(), trainers()
    for trainer in alone:
        trainer.train_epoch()
    assert len({bucket(trainer) for trainer in together}) == 1
    lanes = Lanes(together, *together[0].batches)
    losses = lanes.train_epoch(together)
    for one, other, (loss, validated) in zip(alone, together, losses, strict=True):
        assert one.progress.history[0].train == pytest.approx(loss, rel=1e-4)
        assert one.progress.history[0].validation == pytest.approx(validated, rel=1e-4)
        other.record(loss, validated)
        lanes.put_back(other)
        for own, lane in zip(one.model.parameters(), other.model.parameters(), strict=True):
            torch.testing.assert_close(own, lane, rtol=1e-3, atol=1e-5)
