"""The bundle, and the served model: the same numbers, and nothing damaged is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

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
from lstm.evaluation.conformal import Calibration, spread
from lstm.features import feature_names
from lstm.models.forecaster import ForecasterConfig, build
from lstm.promotion.gate import Weights
from lstm.promotion.identity import to_iso
from lstm.scaling import Scaler
from lstm.tracking.bundle import Bundle, Member, Twin
from lstm.tracking.bundle_files import BundleError, load, save
from lstm.tracking.forecast import panel_of, rows_of
from lstm.tracking.registry import save_model, signature
from lstm.training.recipe import Recipe, TrainingConfig
from lstm.windows import newest, windows

LOOKBACK, HORIZON = 48, 6
MakePanel = Callable[..., Panel]


def make_bundle(
    panel: Panel, *, series: str | None = None, non_negative: bool = False, members: int = 1
) -> Bundle:
    """Each member after the first reads half of what the one before does."""
    config = ForecasterConfig(
        cell="gru",
        hidden_size=4,
        num_layers=1,
        dropout=0.0,
        segment_length=1,
        lookback=LOOKBACK,
        horizon=HORIZON,
        quantiles=(0.1, 0.5, 0.9),
        columns=len(panel.columns),
        calendar_features=len(feature_names(panel.frequency)),
    )
    configs = [replace(config, lookback=LOOKBACK // 2**number) for number in range(members)]
    factors = np.linspace(0.5, 1.5, 3 * HORIZON).reshape(HORIZON, 3)
    twins = []
    for number, last in enumerate((panel.n_steps // 2, panel.n_steps - 1)):
        torch.manual_seed(number)
        weights = tuple(build(one).state_dict() for one in configs)
        until = to_iso(panel.frequency.shift(panel.start, last))
        twins.append(Twin(weights, Scaler.fit(panel, last), until))
    return Bundle(
        layout=Layout("made", "when", series, panel.target, panel.covariates, panel.frequency.time_zone),
        frequency=panel.frequency,
        seasons=(24, 168),
        non_negative=non_negative,
        members=tuple(
            Member(Recipe(one, TrainingConfig(), 3), Calibration(factors, 0.25, 100)) for one in configs
        ),
        judged=twins[0],
        served=twins[1],
        serves="served",
        code_version="0.1.0",
    )


@pytest.fixture
def panel(make_panel: MakePanel) -> Panel:
    return make_panel(steps=200, series=("a", "b"), covariates=("warmth",), missing=0.1, first_steps=(0, 30))


@pytest.mark.parametrize("members", [1, 3])
def test_saved_and_loaded_is_the_same(panel: Panel, tmp_path: Path, members: int) -> None:
    bundle = make_bundle(panel, series="id", members=members)
    digest = save(bundle, tmp_path)
    loaded = load(tmp_path, digest)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bundle.json",
        "judged.safetensors",
        "served.safetensors",
    ]
    for name in ("layout", "frequency", "seasons", "non_negative", "serves", "code_version"):
        assert getattr(loaded, name) == getattr(bundle, name), name
    for which in ("judged", "served"):
        before, after = bundle.twin(which), loaded.twin(which)
        assert after.until == before.until
        assert after.scaler.series == before.scaler.series
        np.testing.assert_array_equal(after.scaler.loc_SC, before.scaler.loc_SC)
        np.testing.assert_array_equal(after.scaler.scale_SC, before.scaler.scale_SC)
        assert len(after.weights) == len(before.weights) == members
        for one, other in zip(after.weights, before.weights, strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one)
    for made, kept in zip(bundle.members, loaded.members, strict=True):
        assert kept.recipe == made.recipe
        np.testing.assert_array_equal(kept.calibration.factor_HQ, made.calibration.factor_HQ)
        assert (kept.calibration.exponent, kept.calibration.windows) == (0.25, 100)
    assert (loaded.data_set, loaded.quantiles, loaded.lookback) == ("made", (0.1, 0.5, 0.9), LOOKBACK)
    np.testing.assert_array_equal(loaded.forecast(panel).values_SHQ, bundle.forecast(panel).values_SHQ)


def test_digest_is_of_the_content(panel: Panel, tmp_path: Path) -> None:
    bundle = make_bundle(panel)
    assert save(bundle, tmp_path / "a") == save(bundle, tmp_path / "b")
    assert save(replace(bundle, serves="judged"), tmp_path / "c") != save(bundle, tmp_path / "a")
    swapped = replace(bundle, served=replace(bundle.served, weights=bundle.judged.weights))
    assert save(swapped, tmp_path / "d") != save(bundle, tmp_path / "a")


@pytest.mark.parametrize("name", ["bundle.json", "judged.safetensors", "served.safetensors"])
def test_every_changed_byte_is_found(panel: Panel, tmp_path: Path, name: str) -> None:
    digest = save(make_bundle(panel), tmp_path)
    path = tmp_path / name
    intact = path.read_bytes()

    @given(st.integers(0, len(intact) - 1), st.integers(1, 255))
    @settings(max_examples=20)
    def change(place: int, by: int) -> None:
        changed = bytearray(intact)
        changed[place] ^= by
        path.write_bytes(changed)
        with pytest.raises(BundleError, match="damaged or changed"):
            load(tmp_path, digest)

    change()
    path.unlink()
    with pytest.raises(BundleError, match=f"{name}: cannot be read"):
        load(tmp_path, digest)


def test_manifests_that_cannot_be_read(panel: Panel, tmp_path: Path) -> None:
    save(make_bundle(panel), tmp_path)
    path = tmp_path / "bundle.json"
    raw = json.loads(path.read_bytes())
    [member] = raw["members"]
    wrong = [{**member["calibration"], "factor": factor} for factor in ([[1.0]], [[-1.0]])]
    for change, words in (
        ({"format": 1}, "bundle format 1, this version reads 4. Remedy: use nightcast 0.1.0"),
        ({"format": 3}, "bundle format 3, this version reads 4"),
        ({"members": [{**member, "calibration": {}}]}, "not a readable bundle .*factor"),
        ({"members": [{**member, "calibration": wrong[0]}]}, "not a readable bundle .*calibration of"),
        ({"members": [{**member, "calibration": wrong[1]}]}, "not a readable bundle .*at least 0"),
        ({"members": [{**member, "recipe": {}}]}, "not a readable bundle .*model"),
        ({"members": []}, "not a readable bundle .*no members"),
        ({"members": [member, member]}, "not a readable bundle .*no weights of member 1"),
        ({"serves": "neither"}, "not a readable bundle .*neither"),
        ({"files": {}}, "not a readable bundle .*judged.safetensors"),
    ):
        path.write_text(json.dumps({**raw, **change}))
        with pytest.raises(BundleError, match=words):
            load(tmp_path)
    path.write_text("{")
    with pytest.raises(BundleError, match="not a readable bundle"):
        load(tmp_path)


def test_the_twin_asked_for_forecasts(panel: Panel) -> None:
    bundle = make_bundle(panel)
    some = windows(panel, Span(100, 150), LOOKBACK, HORIZON)
    judged, served = (bundle.forecast_windows(panel, some, which) for which in ("judged", "served"))
    assert judged.shape == (len(some), HORIZON, 3)
    assert (np.diff(judged, axis=2) >= 0).all()
    assert not np.allclose(judged, served)
    newest = replace(bundle, serves="judged").forecast(panel).values_SHQ
    assert not np.allclose(newest, bundle.forecast(panel).values_SHQ)


@pytest.mark.parametrize("which", ["judged", "served"])
def test_both_twins_forecast_calibrated_quantiles(panel: Panel, which: Weights) -> None:
    # Of these windows, none comes after another one whose horizon is over.
    bundle, some = make_bundle(panel), windows(panel, Span(101, 106 + HORIZON - 1), LOOKBACK, HORIZON)
    [member] = bundle.members
    plain = replace(
        bundle, members=(replace(member, calibration=Calibration(np.ones((HORIZON, 3)), 0.0, 0)),)
    )
    before, after = (one.forecast_windows(panel, some, which) for one in (plain, bundle))
    np.testing.assert_array_equal(after[..., 1], before[..., 1])
    spread_W = spread(bundle.twin(which).scaler.scale(panel, HORIZON).values[:, 0], some.origins, LOOKBACK)
    stretched = (before[..., [0, 2]] - before[..., [1]]) * (spread_W**0.25)[:, None, None]
    wanted = stretched * member.calibration.factor_HQ[:, [0, 2]]
    np.testing.assert_allclose(after[..., [0, 2]] - after[..., [1]], wanted, rtol=1e-9)


@pytest.mark.parametrize("which", ["judged", "served"])
def test_members_forecast_the_mean_of_what_each_would(panel: Panel, which: Weights) -> None:
    # Of these windows, none comes after another one whose horizon is over.
    bundle = make_bundle(panel, members=3)
    some = windows(panel, Span(101, 106 + HORIZON - 1), bundle.lookback, HORIZON)

    def alone(number: int) -> Bundle:
        twins = {
            name: replace(bundle.twin(name), weights=(bundle.twin(name).weights[number],))
            for name in ("judged", "served")
        }
        return replace(bundle, members=(bundle.members[number],), **twins)

    each = [alone(number).forecast_windows(panel, some, which) for number in range(3)]
    assert not np.allclose(each[0], each[1])
    np.testing.assert_allclose(bundle.forecast_windows(panel, some, which), np.mean(each, axis=0), rtol=1e-9)
    assert [alone(number).lookback for number in range(3)] == [LOOKBACK, LOOKBACK // 2, LOOKBACK // 4]
    assert bundle.lookback == LOOKBACK


def test_forecasts_are_in_the_units_of_each_series(panel: Panel) -> None:
    values = make_bundle(panel).forecast(panel).values_SHQ
    assert values.shape == (2, HORIZON, 3)
    # The factory puts series b at twice the level of a.
    np.testing.assert_allclose(values[1].mean() / values[0].mean(), 2, rtol=0.2)


def test_non_negative_targets_have_non_negative_forecasts(make_panel: MakePanel) -> None:
    panel = make_panel(steps=200)
    panel = replace(panel, values=panel.values - 10)
    free, bounded = (
        make_bundle(panel, non_negative=flag).forecast(panel).values_SHQ for flag in (False, True)
    )
    assert free.min() < 0
    np.testing.assert_array_equal(bounded, np.maximum(free, 0))


def test_forecast_follows_the_last_step(make_panel: MakePanel) -> None:
    panel = replace(make_panel(steps=100), frequency=Frequency("h", "Europe/Paris"))
    forecast = make_bundle(panel).forecast(panel, version="3")
    assert (forecast.version, forecast.as_of, forecast.series) == ("3", "2024-01-05T03:00:00Z", ("",))
    frame = forecast.to_frame()
    assert list(frame.columns) == ["series", "time", "q0.1", "q0.5", "q0.9"]
    assert list(frame["time"])[:2] == ["2024-01-05T05:00+01:00", "2024-01-05T06:00+01:00"]
    np.testing.assert_array_equal(frame[["q0.1", "q0.5", "q0.9"]].to_numpy(), forecast.values_SHQ[0])


def test_frame_lists_series_after_series(panel: Panel) -> None:
    forecast = make_bundle(panel).forecast(panel)
    frame = forecast.to_frame()
    assert list(frame["series"]) == ["a"] * HORIZON + ["b"] * HORIZON
    assert list(frame["time"][:HORIZON]) == list(frame["time"][HORIZON:])
    np.testing.assert_array_equal(frame["q0.5"][HORIZON:], forecast.values_SHQ[1, :, 1])


@pytest.mark.parametrize("frequency", ["h", "15min", "D", "W-MON", "MS"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Paris"])
def test_rows_and_panel_are_inverse(make_panel: MakePanel, frequency: str, zone: str) -> None:
    made = make_panel(steps=90, series=("a", "b"), covariates=("warmth",), frequency=frequency, missing=0.2)
    grid = Frequency(frequency, zone)
    start = grid.floor(np.array(["2024-03-01T00:00"], dtype="datetime64[us]"))[0]
    panel = replace(made, frequency=grid, start=start)
    layout = Layout("made", "when", "id", "load", ("warmth",), zone)
    back = panel_of(rows_of(panel, layout, 90), layout, grid)
    assert (back.series, back.columns, back.as_of) == (panel.series, panel.columns, panel.as_of)
    for number in range(2):
        rows = int(np.diff(back.offsets)[number])
        end, own = int(panel.offsets[number + 1]), int(back.offsets[number + 1])
        np.testing.assert_array_equal(back.values[own - rows : own], panel.values[end - rows : end])


@given(st.floats(0, 0.6), st.integers(0, 5))
@settings(max_examples=10, deadline=None)
def test_newest_rows_forecast_like_the_whole_panel(missing: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((1280, 2))
    values[generator.random(values.shape) < missing] = np.nan
    panel = Panel(
        data_set="made",
        frequency=Frequency("h"),
        target="load",
        covariates=("warmth",),
        series=("a", "b"),
        start=np.datetime64("2024-01-01T00:00:00", "us"),
        first_steps=np.array([0, 0]),
        offsets=np.array([0, 640, 1280]),
        values=values,
    )
    bundle = make_bundle(panel, series="id")
    rows = rows_of(panel, bundle.layout, bundle.history)
    back = panel_of(rows, bundle.layout, bundle.frequency)
    np.testing.assert_allclose(bundle.forecast(back).values_SHQ, bundle.forecast(panel).values_SHQ, rtol=1e-5)


@pytest.mark.parametrize("which", ["judged", "served"])
def test_intervals_learn_from_what_has_happened_and_from_nothing_else(panel: Panel, which: Weights) -> None:
    bundle = make_bundle(panel)
    if which == "served":
        bundle = replace(bundle, served=replace(bundle.served, until=bundle.judged.until))
    some = windows(panel, Span(150, 170), LOOKBACK, HORIZON)
    before = bundle.forecast_windows(panel, some, which)
    for origin in (149, 155):
        chosen = some.steps == origin
        steps = np.concatenate([np.arange(first, panel.n_steps) for first in panel.first_steps])
        values = panel.values.copy()
        values[steps > origin] = 1e3
        after = bundle.forecast_windows(replace(panel, values=values), some, which)
        np.testing.assert_array_equal(after[chosen], before[chosen])
        values = panel.values.copy()
        values[(steps == origin) & ~np.isnan(values[:, 0]), 0] *= 50
        after = bundle.forecast_windows(replace(panel, values=values), some, which)
        assert (after[chosen] != before[chosen]).any()


def test_served_weights_have_the_judged_ones_vouch_for_what_they_saw_themselves(panel: Panel) -> None:
    bundle, some = make_bundle(panel), newest(panel, LOOKBACK)
    plain = replace(bundle, judged=replace(bundle.judged, until=bundle.served.until))
    before, after = (one.forecast_windows(panel, some, "served") for one in (plain, bundle))
    np.testing.assert_array_equal(after[..., 1], before[..., 1])
    assert (after != before).any()
    sane = replace(bundle, served=replace(bundle.served, weights=bundle.judged.weights))
    other = replace(bundle, judged=replace(bundle.judged, weights=bundle.served.weights))
    widths = [one.forecast_windows(panel, some, "served") for one in (sane, other)]
    assert not np.allclose(*widths)


def test_rows_reach_back_to_what_fills_the_first_one(make_panel: MakePanel) -> None:
    panel = make_panel(steps=200)
    panel.values[140:160] = np.nan
    rows = rows_of(panel, make_bundle(panel).layout, LOOKBACK)
    assert len(rows) == 200 - 139
    assert not np.isnan(rows["load"][0])


def test_what_cannot_be_forecast_from(panel: Panel) -> None:
    bundle = make_bundle(panel, series="id")
    rows = rows_of(panel, bundle.layout, bundle.history)

    def ask(frame: pd.DataFrame) -> None:
        bundle.forecast(panel_of(frame, bundle.layout, bundle.frequency))

    with pytest.raises(DataRefused, match="no rows"):
        ask(rows.head(0))
    with pytest.raises(DataRefused, match="column warmth"):
        ask(rows.drop(columns="warmth"))
    with pytest.raises(DataRefused, match=r"made, series a, column load: .*a forecast reads 48"):
        ask(rows.groupby("id").tail(10))
    with pytest.raises(DataRefused, match="series zz: the model was not trained on this series"):
        ask(rows.assign(id=rows["id"].replace("a", "zz")))
    with pytest.raises(DataRefused, match="column load"):
        ask(rows.assign(load="many"))


@pytest.fixture
def model(panel: Panel, tmp_path: Path) -> Path:
    bundle = make_bundle(panel, series="id")
    digest = save(bundle, tmp_path / "bundle")
    save_model(bundle, digest, tmp_path / "bundle", panel, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
# MLflow looks at zoned datetimes in a way that pandas deprecates.
@pytest.mark.filterwarnings("ignore:Series.values returning an ndarray:pandas.errors.Pandas4Warning")
def test_served_model_gives_the_same_numbers(panel: Panel, model: Path) -> None:
    bundle = make_bundle(panel, series="id")
    wanted = bundle.forecast(panel).to_frame()
    served = mlflow.pyfunc.load_model(str(model))
    rows = rows_of(panel, bundle.layout, bundle.history)
    pd.testing.assert_frame_equal(served.predict(rows), wanted)
    as_times = rows.assign(when=pd.to_datetime(rows["when"], utc=True))
    pd.testing.assert_frame_equal(served.predict(as_times), wanted)
    shuffled = rows.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(served.predict(shuffled), wanted)
    assert served.metadata.signature == signature(bundle)
    example = served.input_example
    assert set(example["id"]) == {"a"}
    pd.testing.assert_frame_equal(served.predict(example), wanted[wanted["series"] == "a"])


def test_the_served_class_itself(panel: Panel, tmp_path: Path) -> None:
    # At the top it would come before the import that silences MLflow's own warning.
    from lstm.tracking.pyfunc import ForecastModel

    bundle = make_bundle(panel, series="id")
    digest = save(bundle, tmp_path)
    context = mlflow.pyfunc.PythonModelContext({"bundle": str(tmp_path)}, {"digest": digest})
    model = ForecastModel()
    model.load_context(context)
    rows = rows_of(panel, bundle.layout, bundle.history)
    pd.testing.assert_frame_equal(model.predict(context, rows), bundle.forecast(panel).to_frame())
    other = mlflow.pyfunc.PythonModelContext({"bundle": str(tmp_path)}, {"digest": "0"})
    with pytest.raises(BundleError):
        ForecastModel().load_context(other)


@pytest.mark.slow
def test_served_model_refuses_other_files(model: Path) -> None:
    path = model / "artifacts" / "bundle" / "served.safetensors"
    intact = path.read_bytes()
    path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    with pytest.raises(BundleError, match="damaged or changed"):
        mlflow.pyfunc.load_model(str(model))


@pytest.mark.slow
def test_served_model_carries_its_own_code(panel: Panel, model: Path, tmp_path: Path) -> None:
    """It runs where Nightcast is not installed, on nothing but what its requirements name."""
    rows = rows_of(panel, make_bundle(panel, series="id").layout, LOOKBACK)
    rows.to_json(tmp_path / "rows.json", orient="records")
    code = f"""
import importlib.metadata as metadata
import sys
# As where it is not installed: no path, no finder of an editable installation.
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
sys.path = [path for path in sys.path if path and path != "{Path.cwd()}"]
import mlflow.pyfunc
import pandas as pd
model = mlflow.pyfunc.load_model("{model}")
print(len(model.predict(pd.read_json("{tmp_path}/rows.json", orient="records", convert_dates=False))))
import data
import lstm.tracking.bundle
print(data.__file__)
print(lstm.tracking.bundle.__file__)
print("optuna" in sys.modules, "prefect" in sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    count, data_file, lstm_file, heavy = done.stdout.strip().splitlines()[-4:]
    assert count == str(2 * HORIZON)
    assert data_file == str(model / "code" / "data" / "__init__.py")
    assert lstm_file == str(model / "code" / "lstm" / "tracking" / "bundle.py")
    assert heavy == "False False"
    assert not list((model / "code").rglob("*.parquet"))
    requirements = (model / "requirements.txt").read_text().split()
    assert all("==" in line and "+" not in line for line in requirements)
