"""The search space: from a data set's `retrain.search_space` to the configurations of one trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from data.catalog import DataSet
from data.retrain import Interval, Retrain, SearchSpace
from lstm.models.forecaster import ForecasterConfig
from lstm.scaling import ScaledPanel
from lstm.training.recipe import Recipe, TrainingConfig

CHOICES = (
    "cell",
    "hidden_size",
    "num_layers",
    "segment_length",
    "lookback",
    "normalisation",
    "head",
    "pooling",
    "bidirectional",
    "channels",
    "positions",
    "pretrain_epochs",
    "batch_size",
)
RANGES = ("dropout", "learning_rate")


def suggest(
    trial: optuna.trial.BaseTrial,
    data_set: DataSet,
    columns: int,
    calendar_features: int,
    future_covariates: int = 0,
    static_features: int = 0,
    series: int = 1,
    series_embedding: int = 0,
) -> tuple[ForecasterConfig, TrainingConfig]:
    """Draw a configuration.

    Args:
        columns, calendar_features, future_covariates, static_features, series, series_embedding: as
            `lstm.scaling.ScaledPanel.sizes` has them.

    Returns:
        The network and its training. The training's seed is the data set's; the caller gives each trial
        its own.
    """
    retrain = data_set.retrain
    space = retrain.search_space
    drawn = {name: trial.suggest_categorical(name, getattr(space, name)) for name in CHOICES}
    for name in RANGES:
        interval: Interval = getattr(space, name)
        drawn[name] = trial.suggest_float(name, interval.low, interval.high, log=interval.low > 0)
    training = TrainingConfig(
        learning_rate=drawn.pop("learning_rate"),
        batch_size=drawn.pop("batch_size"),
        pretrain_epochs=drawn.pop("pretrain_epochs"),
        max_epochs=retrain.max_epochs,
        seed=retrain.seed,
    )
    model = ForecasterConfig(
        **drawn,
        horizon=retrain.horizon,
        quantiles=retrain.quantiles,
        columns=columns,
        calendar_features=calendar_features,
        future_covariates=future_covariates,
        static_features=static_features,
        series=series,
        series_embedding=series_embedding,
    )
    return model, training


def centre(space: SearchSpace) -> dict[str, Any]:
    """The parameters in the middle of the space: a sound first trial where the budget is small.

    The middle entry of a list (the first of two), and the middle of a range on its own scale.
    """
    middle = {name: _middle(getattr(space, name)) for name in CHOICES}
    for name in RANGES:
        interval: Interval = getattr(space, name)
        low, high = interval.low, interval.high
        middle[name] = math.sqrt(low * high) if low > 0 else (low + high) / 2
    return middle


def first_trials(retrain: Retrain, champion: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """What is known before a search draws any: what the champion was made with, and the middle of the space.

    For an ensemble one of each normalisation: what the champion's network was made with, else the middle.

    Args:
        champion: the parameters of its networks, the best first; those that the space does not hold any more
            are left out.
    """
    space = retrain.search_space
    middle, own = centre(space), [dict(params) for params in champion if contains(space, params)]
    lead = own[0] if own else middle
    made_with = {params["normalisation"]: params for params in reversed(own)}
    kinds = space.normalisation if retrain.ensemble else ()
    each = [made_with.get(kind, {**middle, "normalisation": kind}) for kind in kinds]
    known = [lead, *each, middle]
    return [params for number, params in enumerate(known) if params not in known[:number]]


def at_centre(data_set: DataSet, scaled: ScaledPanel) -> tuple[ForecasterConfig, TrainingConfig]:
    """The configuration in the middle of the data set's space."""
    return configured(centre(data_set.retrain.search_space), data_set, scaled)


def configured(
    params: Mapping[str, Any], data_set: DataSet, scaled: ScaledPanel
) -> tuple[ForecasterConfig, TrainingConfig]:
    """The configuration of some parameters.

    Raises:
        ValueError: one is missing, or lies outside the data set's space.
    """
    return suggest(optuna.trial.FixedTrial(dict(params)), data_set, **scaled.sizes)


def params_of(recipe: Recipe) -> dict[str, Any]:
    """The parameters that a recipe was drawn with."""
    drawn = {**recipe.training.to_dict(), **recipe.model.to_dict()}
    return {name: drawn[name] for name in (*CHOICES, *RANGES)}


def contains(space: SearchSpace, params: Mapping[str, Any]) -> bool:
    """True if these are all of the space's parameters, each inside it."""
    if set(params) != {*CHOICES, *RANGES}:
        return False
    chosen = all(params[name] in getattr(space, name) for name in CHOICES)
    intervals = {name: getattr(space, name) for name in RANGES}
    return chosen and all(
        interval.low <= params[name] <= interval.high for name, interval in intervals.items()
    )


def _middle(choices: tuple[Any, ...]) -> Any:
    return choices[(len(choices) - 1) // 2]
