"""Refit: the recipe's epochs on a span, blind to what comes after it, and repeatable bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from data.calendar import Frequency
from data.panel import Panel
from data.splits import Span
from lstm.features import feature_names
from lstm.models.forecaster import ForecasterConfig
from lstm.scaling import Scaler
from lstm.training.checkpoint import EpochLoss
from lstm.training.recipe import Recipe, TrainingConfig
from lstm.training.refit import Trained, refit

CPU = torch.device("cpu")
SPAN = Span(0, 149)
RECIPE = Recipe(
    ForecasterConfig(
        cell="gru",
        hidden_size=4,
        num_layers=1,
        dropout=0.1,
        segment_length=6,
        lookback=24,
        horizon=6,
        quantiles=(0.1, 0.5, 0.9),
        columns=2,
        calendar_features=len(feature_names(Frequency("h"))),
    ),
    TrainingConfig(learning_rate=1e-2, batch_size=32, max_epochs=4, seed=5),
    epochs=2,
)
MakePanel = Callable[..., Panel]
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=10)


def trained(panel: Panel, recipe: Recipe = RECIPE, span: Span = SPAN) -> Trained:
    return refit(recipe, panel, span, CPU)


def same(one: Trained, other: Trained) -> bool:
    return one.scaler.to_dict() == other.scaler.to_dict() and all(
        torch.equal(one.state[name], other.state[name]) for name in one.state
    )


@SHARED
@given(
    column=st.integers(0, 1),
    after=st.integers(0, 49),
    value=st.one_of(st.just(float("nan")), st.floats(-1e6, 1e6)),
)
def test_nothing_after_the_span_changes_the_weights(
    make_panel: MakePanel, column: int, after: int, value: float
) -> None:
    panel = make_panel(steps=200, series=("a", "b"), covariates=("heat",), first_steps=(0, 20))
    values = panel.values.copy()
    for number in range(2):
        first = SPAN.last + 1 + after - int(panel.first_steps[number])
        values[panel.rows(number)][first:, column] = value
    changed = replace(panel, values=values)
    assert not np.array_equal(changed.values, panel.values, equal_nan=True)
    assert same(trained(panel), trained(changed))


@SHARED
@given(step=st.integers(30, SPAN.last))
def test_what_the_span_holds_does_change_them(make_panel: MakePanel, step: int) -> None:
    """The last step of the span is seen too."""
    panel = make_panel(steps=200, covariates=("heat",))
    values = panel.values.copy()
    values[step, 0] += 5
    assert not same(trained(panel), trained(replace(panel, values=values)))


@SHARED
@given(cut=st.integers(0, 40))
def test_a_panel_that_ends_sooner_gives_the_same_weights(make_panel: MakePanel, cut: int) -> None:
    panel = make_panel(steps=200, covariates=("heat",))
    assert same(trained(panel), trained(panel.until(199 - cut)))


@SHARED
@given(seed=st.integers(0, 1000), other=st.integers(0, 1000))
def test_the_same_recipe_makes_the_same_bits(make_panel: MakePanel, seed: int, other: int) -> None:
    """Whatever the process has drawn before, and through JSON and back."""
    assume(seed != other)
    panel = make_panel(steps=200, covariates=("heat",))
    recipe = replace(RECIPE, training=replace(RECIPE.training, seed=seed))
    one = trained(panel, recipe)
    torch.rand(seed + 1)
    assert same(one, trained(panel, Recipe.from_dict(recipe.to_dict())))
    assert not same(one, trained(panel, replace(recipe, training=replace(recipe.training, seed=other))))


def test_it_trains_for_exactly_the_recipes_epochs(make_panel: MakePanel, tmp_path: Path) -> None:
    panel = make_panel(steps=200, covariates=("heat",))
    epochs: list[int] = []

    def note(epoch: int, loss: EpochLoss) -> None:
        assert np.isfinite(loss.train)
        epochs.append(epoch)

    checkpoint = tmp_path / "judged.safetensors"
    made = refit(RECIPE, panel, SPAN, CPU, checkpoint=checkpoint, on_epoch=note)
    assert epochs == [1, 2]
    assert same(made, trained(panel))
    assert not same(made, trained(panel, replace(RECIPE, epochs=3)))
    written = checkpoint.stat().st_mtime_ns
    assert same(made, refit(RECIPE, panel, SPAN, CPU, checkpoint=checkpoint))
    assert checkpoint.stat().st_mtime_ns == written


def test_the_scaler_knows_the_span_and_no_more(make_panel: MakePanel) -> None:
    panel = make_panel(steps=200, series=("a", "b"), covariates=("heat",))
    assert trained(panel).scaler.to_dict() == Scaler.fit(panel, SPAN.last).to_dict()
    assert trained(panel).scaler.series == ("a", "b")


def test_a_span_without_a_window_is_an_error(make_panel: MakePanel) -> None:
    panel = make_panel(steps=200, covariates=("heat",))
    with pytest.raises(ValueError, match="window"):
        trained(panel, span=Span(0, 28))
    assert trained(panel, span=Span(0, 29)).state
