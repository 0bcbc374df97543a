"""A model looked into: what is found, drawn and printed, and windows that there are not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nights import House

from data.contract import check, resolve_as_of
from data.errors import DataRefused
from data.panel import Panel
from data.splits import split
from flows.cli import explanation
from flows.explaining import Explained, _window, diagnose
from lstm.features import feature_names
from lstm.models.forecaster import ForecasterConfig, build
from lstm.scaling import Scaler
from lstm.training.recipe import Recipe, TrainingConfig
from lstm.training.refit import Trained

PICTURES = {"gates", "gradients", "importance"}


@pytest.fixture
def house(tmp_path: Path) -> House:
    made = House(tmp_path)
    made.declare("made")
    made.write("made", 24 * 20)
    return made


def explained(house: House, cell: Any, segment: int = 12, hidden_size: int = 4) -> Explained:
    """An untrained network's explanation, all but the registry."""
    data_set = house.data_set("made")
    panel = check(data_set, resolve_as_of(data_set)).panel
    config = ForecasterConfig(
        cell=cell,
        hidden_size=hidden_size,
        num_layers=1,
        dropout=0.0,
        segment_length=segment,
        lookback=24,
        horizon=data_set.retrain.horizon,
        quantiles=data_set.retrain.quantiles,
        columns=1,
        calendar_features=len(feature_names(panel.frequency)),
    )
    torch.manual_seed(0)
    trained = Trained(build(config).state_dict(), Scaler.fit(panel, panel.n_steps - 1))
    recipe = Recipe(config, TrainingConfig(), 1)
    window = _window(panel, None, panel.n_steps - 1, 24)
    found = diagnose(data_set, recipe, trained, trained, panel, split(panel, data_set.retrain), window)
    return Explained("made", "7", recipe, 1, "", "2024-01-20 23:00+00:00", found, {"gates": Path("a[1].png")})


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("lstm", ["input gate", "forget gate", "output gate", "half forgotten after"]),
        ("gru", ["reset gate", "update gate", "half forgotten after"]),
        ("rnn", ["A plain RNN has no gates"]),
        ("transformer", ["A transformer has no gates"]),
    ],
)
def test_every_cell_is_explained_by_what_it_has(
    house: House, cell: str, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = explained(house, cell, hidden_size=16)
    pictures = found.found.pictures("champion")
    assert set(pictures) == PICTURES - ({"gates"} if cell == "transformer" else set())
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    answer = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (answer["gates"] is None) == (cell == "transformer")
    assert list(answer["importance"]["columns"]) == ["load", "hour_of_day", "day_of_week", "day_of_year"]
    assert answer["gradients"]["RNN, weights × 0.5"]["reach"] < 24
    explanation._print(found)
    told = capsys.readouterr().out
    for part in (*said, f"champion version 7 ({cell.upper()})", "LSTM", "hour of day", "a[1].png"):
        assert part in told


def test_an_ensemble_is_explained_by_its_best_network(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    found = replace(explained(house, "gru"), networks=3)
    assert found.to_dict()["networks"] == 3
    explanation._print(found)
    assert "champion version 7 (GRU, the best of 3 networks), 24 steps" in capsys.readouterr().out


def test_a_judge_span_of_one_window_has_no_importance(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    house.declare("made", judge="6h")
    found = explained(house, "gru")
    assert set(found.found.pictures("champion")) == PICTURES - {"importance"}
    assert found.to_dict()["importance"] is None
    explanation._print(found)
    assert "error grows by" not in capsys.readouterr().out


def test_a_window_that_is_not_there_is_refused(make_panel: Any) -> None:
    panel: Panel = make_panel(steps=50, series=("old", "new"), first_steps=(0, 40))
    window = _window(panel, None, 49, 24)
    assert (window.origins.tolist(), window.series.tolist(), window.steps.tolist()) == ([49], [0], [49])
    assert _window(panel, "old", 23, 24).origins.tolist() == [23]
    with pytest.raises(DataRefused, match=r"a time from 2024-01-01 23:00.* to 2024-01-03 01:00"):
        _window(panel, "old", 22, 24)
    with pytest.raises(DataRefused, match="no window of 24 steps"):
        _window(panel, "old", 50, 24)
    with pytest.raises(DataRefused, match="a series of at least 24 steps"):
        _window(panel, "new", 49, 24)
    with pytest.raises(DataRefused, match=r"'other'.*one of old, new"):
        _window(panel, "other", 49, 24)
    with pytest.raises(DataRefused, match="leave --series out: the data set is one series"):
        _window(make_panel(steps=50, series=("",)), "other", 49, 24)
