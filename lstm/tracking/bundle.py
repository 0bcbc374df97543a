"""The bundle of one model version: all that a forecast needs, and the forecast.

Axes: M members, S series, W windows, H horizon steps, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.calendar import Frequency
from data.catalog import DataSet
from data.checks import check_ahead
from data.errors import DataRefused
from data.layout import Layout, layout_of
from data.panel import Floats, Panel
from data.splits import Span
from lstm.evaluation.adaptive import RATE, TRAIL, Trail, adapt
from lstm.evaluation.conformal import Calibration, spread
from lstm.models.heads import median_index
from lstm.promotion.gate import Weights
from lstm.promotion.identity import to_iso
from lstm.scaling import Scaler
from lstm.tracking.forecast import Forecast
from lstm.training.predict import predict
from lstm.training.recipe import Recipe
from lstm.windows import Windows, newest, targets, windows

TWINS: tuple[Weights, Weights] = ("judged", "served")
"""The names of a version's two weight sets."""

# What was forecast for them before takes memory.
_SERIES_AT_ONCE = 256
# A version of more series than this learns from a part of the forecasts before: five has no divisor in common
# with days and weeks, so each step of the horizon is still seen at all times of the day.
_MANY_SERIES, _STRIDE_OF_MANY = 100, 5


@dataclass(frozen=True)
class Twin:
    """One of a version's two weight sets.

    Args:
        weights: a state dict for each member, on the CPU.
        scaler: fitted on what these trainings saw.
        until: the UTC time of the last step that they saw, as `to_iso` writes it.
    """

    weights: tuple[Mapping[str, Tensor], ...]
    scaler: Scaler
    until: str


@dataclass(frozen=True)
class Member:
    """One of the networks whose forecasts a version averages.

    Args:
        recipe: what makes the same weights again.
        calibration: of its quantiles, whichever weights forecast.
    """

    recipe: Recipe
    calibration: Calibration


@dataclass(frozen=True)
class Bundle:
    """A model version: everything that a forecast needs, and where it comes from.

    Args:
        layout: names of the data's columns, as the catalog declared them.
        frequency: the grid's step and time zone.
        seasons: season lengths in steps, the strongest first.
        non_negative: forecasts are not below 0.
        members: its networks, at least one, the best first. Horizon and quantiles are the same for all.
        judged: the weights that the gate compares; their training ended before the judge span.
        served: the weights refitted through as-of.
        serves: which of the two forecasts.
        code_version: the package that made it.
    """

    layout: Layout
    frequency: Frequency
    seasons: tuple[int, ...]
    non_negative: bool
    members: tuple[Member, ...]
    judged: Twin
    served: Twin
    serves: Weights
    code_version: str

    @property
    def data_set(self) -> str:
        """The catalog name."""
        return self.layout.data_set

    @property
    def quantiles(self) -> tuple[float, ...]:
        """The Q levels, rising."""
        return self.recipe.model.quantiles

    @property
    def horizon(self) -> int:
        """Steps ahead."""
        return self.recipe.model.horizon

    @property
    def recipe(self) -> Recipe:
        """Of the best member."""
        return self.members[0].recipe

    @property
    def lookback(self) -> int:
        """Steps that a forecast needs."""
        return max(member.recipe.model.lookback for member in self.members)

    @property
    def history(self) -> int:
        """Steps that a forecast reads where there are so many: its intervals learn from earlier windows."""
        return self.lookback + self.horizon + TRAIL

    def twin(self, which: Weights) -> Twin:
        """The weights of that name."""
        return self.judged if which == "judged" else self.served

    def check(self, data_set: DataSet) -> None:
        """Hold the version against what the catalog declares now.

        Raises:
            DataRefused: it was made for other columns, steps or levels, and its forecasts would mislead.
        """
        layout = layout_of(data_set)
        now_then = (
            ("columns", layout.values, self.layout.values),
            ("future covariates", layout.future, self.layout.future),
            ("static features", layout.static, self.layout.static),
            ("holidays", layout.holidays, self.layout.holidays),
            ("horizon", data_set.retrain.horizon, self.horizon),
            ("quantiles", data_set.retrain.quantiles, self.quantiles),
            ("frequency", data_set.grid, self.frequency),
        )
        for what, now, then in now_then:
            if now != then:
                raise DataRefused(
                    f"The champion was made for other {what}: {then}, now {now}.",
                    data_set=self.data_set,
                    remedy=f"nightcast retire {self.data_set}, if the change is meant.",
                )

    def forecast_windows(
        self, panel: Panel, asked: Windows, which: Weights, device: torch.device | None = None
    ) -> Floats:
        """(W, H, Q) quantiles in the target's own units: the mean of the members' calibrated ones, adapted to
        the forecasts before.

        Raises:
            DataRefused: the panel has other columns, or a series that was not trained on.
        """
        forecasts = {name: self._forecaster(panel, name, device) for name in {"judged", which}}
        y_WHQ = np.empty((len(asked), self.horizon, len(self.quantiles)))
        group_W, rate = asked.series // _SERIES_AT_ONCE, RATE * self._stride
        for group in np.unique(group_W):
            chosen = np.flatnonzero(group_W == group)
            some = asked.select(chosen)
            trail = self._trail(panel, some, which, forecasts)
            made_WHQ = forecasts[which](some)
            y_WHQ[chosen] = adapt(made_WHQ, some.series, some.steps, trail, self.quantiles, rate)
        return np.maximum(y_WHQ, 0.0) if self.non_negative else y_WHQ

    def forecast(self, panel: Panel, version: str | None = None) -> Forecast:
        """The horizon after the panel's last step, by the weights that serve.

        Raises:
            DataRefused: as of `forecast_windows`, or a series is shorter than the lookback, or a future
                covariate is missing in the horizon.
        """
        check_ahead(panel, self.horizon)
        return Forecast(
            data_set=self.data_set,
            version=version,
            as_of=to_iso(panel.as_of),
            frequency=panel.frequency,
            series=panel.series,
            times=panel.frequency.times(panel.frequency.shift(panel.as_of, 1), self.horizon),
            quantiles=self.quantiles,
            values_SHQ=self.forecast_windows(panel, newest(panel, self.lookback), self.serves),
        )

    def _forecaster(
        self, panel: Panel, which: Weights, device: torch.device | None
    ) -> Callable[[Windows], Floats]:
        """From windows to (W, H, Q) quantiles in the target's own units, the mean of the members'."""
        twin = self.twin(which)
        scaler = twin.scaler.select(panel)
        scaled = scaler.scale(panel, self.horizon)

        def of_one(member: Member, weights: Mapping[str, Tensor], some: Windows) -> Floats:
            config = member.recipe.model
            z_WHQ = predict(config, weights, scaled, some, device or torch.device("cpu"))
            spread_W = spread(scaled.values[:, 0], some.origins, config.lookback)
            return member.calibration.apply(z_WHQ, spread_W, median_index(config.quantiles))

        def forecast(some: Windows) -> Floats:
            pairs = zip(self.members, twin.weights, strict=True)
            z_MWHQ = [of_one(member, weights, some) for member, weights in pairs]
            return scaler.unscale(np.mean(z_MWHQ, axis=0), some.series)

        return forecast

    @property
    def _stride(self) -> int:
        """Steps between two forecasts to learn from: not by who is asked for, so that it changes nobody's."""
        return _STRIDE_OF_MANY if len(self.judged.scaler.series) > _MANY_SERIES else 1

    def _trail(
        self,
        panel: Panel,
        asked: Windows,
        which: Weights,
        forecasts: Mapping[Weights, Callable[[Windows], Floats]],
    ) -> Trail:
        """What would have been forecast before these windows, by weights that had not seen what happened:
        by those asked for where they had not, else by the judged ones."""
        horizon = self.horizon
        seen = {name: _step(panel, self.twin(name).until) for name in TWINS}
        first = max(seen["judged"], int(asked.steps.min()) - horizon - TRAIL)
        # Counted back from the newest origin whose horizon is over.
        first += (asked.last_step - horizon - first) % self._stride
        span, series = Span(first + 1, asked.last_step), np.unique(asked.series).tolist()
        earlier = windows(panel, span, self.lookback, horizon, self._stride, series)
        forecast_VHQ = np.empty((len(earlier), horizon, len(self.quantiles)))
        is_unseen_V = earlier.steps >= seen[which]
        for name, chosen in ((which, np.flatnonzero(is_unseen_V)), ("judged", np.flatnonzero(~is_unseen_V))):
            forecast_VHQ[chosen] = forecasts[name](earlier.select(chosen))
        return Trail(targets(panel, earlier, horizon), forecast_VHQ, earlier.series, earlier.steps)


def _step(panel: Panel, until: str) -> int:
    """The grid step of a time; below 0 where the panel begins later."""
    time = np.asarray([until.removesuffix("Z")], dtype="datetime64[us]")
    return int(panel.frequency.steps_between(panel.start, time)[0])
