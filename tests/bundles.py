"""A bundle of untrained networks, and the panel that it forecasts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from data.layout import Layout
from data.panel import Panel
from lstm.evaluation.conformal import Calibration
from lstm.features import feature_names
from lstm.models.forecaster import ForecasterConfig, build
from lstm.promotion.identity import to_iso
from lstm.scaling import Scaler
from lstm.tracking.bundle import Bundle, Member, Twin
from lstm.training.recipe import Recipe, TrainingConfig

LOOKBACK, HORIZON = 48, 6
MakePanel = Callable[..., Panel]


def make_bundle(
    panel: Panel, *, series: str | None = None, non_negative: bool = False, members: int = 1
) -> Bundle:
    """The best member reads the fewest steps, the next ones twice as many; each has its own calibration."""
    config = ForecasterConfig(
        cell="gru",
        hidden_size=4,
        num_layers=1,
        dropout=0.0,
        segment_length=1,
        lookback=LOOKBACK // 2 ** (members - 1),
        horizon=HORIZON,
        quantiles=(0.1, 0.5, 0.9),
        columns=len(panel.columns),
        calendar_features=len(feature_names(panel.frequency)),
    )
    configs = [
        replace(config, lookback=config.lookback * 2**number, normalisation=kind)
        for number, kind in zip(range(members), ("instance", "last_value", "none"), strict=False)
    ]
    factors = np.linspace(0.5, 1.5, 3 * HORIZON).reshape(HORIZON, 3)
    calibrations = [
        Calibration(factors * (1 + number), exponent, 100)
        for number, exponent in zip(range(members), (0.25, -0.25, 0.5), strict=False)
    ]
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
            Member(Recipe(one, TrainingConfig(), 3), calibration)
            for one, calibration in zip(configs, calibrations, strict=True)
        ),
        judged=twins[0],
        served=twins[1],
        serves="served",
        code_version="0.1.0",
    )


def two_series(make_panel: MakePanel) -> Panel:
    """Two series of a target and a covariate with gaps, of which one begins later."""
    return make_panel(steps=200, series=("a", "b"), covariates=("warmth",), missing=0.1, first_steps=(0, 30))
