"""Conformal calibration: quantiles that keep what they promise, from errors on windows that no training saw.

A network's quantiles are fitted to its training windows, so on new ones they lie too close to the median.
Conformalised quantile regression (Romano, Patterson and Candès, 2019, arXiv:1905.03222) moves them by an
order statistic of the errors on calibration windows. Here it stretches the distance of each quantile from the
median, each side, step and level for itself, and lets the spread of a window's lookback count: restless times
have larger errors, in some data more so than the network expects, in other data less (normalised scores: Lei
et al., 2018, Distribution-free predictive inference for regression, section 5.2).

Axes: W windows, H horizon steps, Q quantile levels, L lookback steps, N rows. Everything is in standardised
units, so that many series share one calibration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.panel import Floats, Integers
from lstm.evaluation.metrics import pinball

EXPONENTS = (-0.5, -0.25, 0.0, 0.25, 0.5)
"""How a window's spread may count: not at all is 0. A network that normalises each window by its spread lets
it count in full, which some data asks to be taken back in part."""

# The spread counts where that lowers the pinball loss by this share: less may be chance, which does not last.
_LEAST_GAIN = 0.01

# A constant lookback says little about what comes; standardised units, as in `lstm.models.forecaster`.
_LEAST_SPREAD = 0.1

# Windows whose lookbacks are gathered at once.
_PIECE = 1024


@dataclass(frozen=True, eq=False)
class Calibration:
    """What quantiles are stretched by, away from the median.

    Args:
        factor_HQ: what the distance of each step's quantile from the median is multiplied by, at least 0;
            1 for the median itself.
        exponent: the power of the window's spread that it is multiplied by as well.
        windows: how many windows it comes from.
    """

    factor_HQ: Floats
    exponent: float
    windows: int

    def apply(self, forecast_WHQ: NDArray[np.floating[Any]], spread_W: Floats, median: int) -> Floats:
        """(W, H, Q) calibrated quantiles, float64. The median stays as it is, and no two quantiles cross.

        Args:
            forecast_WHQ: rising quantiles in standardised units.
            spread_W: of each window (`spread`).
            median: index of the .5 quantile.
        """
        power_W11 = (spread_W**self.exponent)[:, np.newaxis, np.newaxis]
        return stretch(forecast_WHQ.astype(np.float64), self.factor_HQ * power_W11, median)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe; `from_dict` gives back the same floats to the last bit."""
        return {"factor": self.factor_HQ.tolist(), "exponent": self.exponent, "windows": self.windows}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: it is not one.
        """
        factor_HQ = np.array(raw["factor"], dtype=np.float64)
        if factor_HQ.ndim != 2 or not (np.isfinite(factor_HQ) & (factor_HQ >= 0)).all():
            raise ValueError("a calibration's factors are finite numbers of at least 0, by step and level")
        return cls(factor_HQ, float(raw["exponent"]), int(raw["windows"]))


def calibrate(
    y_WH: Floats,
    forecast_WHQ: NDArray[np.floating[Any]],
    spread_W: Floats,
    levels: Sequence[float],
    exponents: Sequence[float] = EXPONENTS,
) -> Calibration:
    """The calibration of quantile forecasts, from windows that their weights have not seen.

    For one exponent, and windows that are exchangeable with those to come, a target lies beyond its upper
    quantile with a chance of at most 1 - level, and of at least that less 1 / (n + 1), where n is the number
    of windows in which the step was observed; likewise for the lower ones. Of several exponents, the one with
    the lowest pinball loss on these windows is taken, yet 0 where the gain over it is under 1 %.

    With few windows it promises less: where n is under level / (1 - level) (9 for .9), no error that was seen
    is large enough, and the largest one stands for it. A step without an observed target stays as it was
    forecast.

    Args:
        y_WH: targets, standardised; NaN where unobserved.
        forecast_WHQ: rising quantiles, standardised.
        spread_W: of each window (`spread`).
        levels: (Q,) rising quantile levels, .5 among them.
    """
    median = list(levels).index(0.5)
    made = {
        exponent: Calibration(
            _factors(y_WH, forecast_WHQ.astype(np.float64), spread_W**exponent, levels, median),
            exponent,
            len(y_WH),
        )
        for exponent in sorted(exponents, key=lambda exponent: (abs(exponent), exponent))
    }

    def loss(exponent: float) -> float:
        gain = 0.0 if exponent else _LEAST_GAIN
        return (1 - gain) * pinball(y_WH, made[exponent].apply(forecast_WHQ, spread_W, median), levels)

    return made[min(made, key=loss)]


def spread(target_N: NDArray[np.floating[Any]], origins: Integers, lookback: int) -> Floats:
    """(W,) the standard deviation of each window's target over its lookback, not below a tenth.

    Args:
        target_N: the panel's standardised target, missing values filled (`lstm.scaling.ScaledPanel`).
        origins: (W,) the flat row of each window's origin.
    """
    past_L = np.arange(1 - lookback, 1)
    pieces = (origins[first : first + _PIECE] for first in range(0, len(origins), _PIECE))
    spreads = [np.std(target_N[piece[:, np.newaxis] + past_L], axis=1, dtype=np.float64) for piece in pieces]
    spread_W: Floats = np.concatenate([np.empty(0), *spreads])
    return np.maximum(spread_W, _LEAST_SPREAD)


def stretch(forecast_WHQ: Floats, factor_WHQ: Floats, median: int) -> Floats:
    """(W, H, Q) rising quantiles, the distance of each from the median multiplied by a factor of at least 0.

    Args:
        factor_WHQ: or what broadcasts to it.
        median: index of the .5 quantile.
    """
    middle_WH1 = forecast_WHQ[..., median : median + 1]
    distance_WHQ = np.abs(forecast_WHQ - middle_WH1) * factor_WHQ
    # Each level is stretched for itself: one further out may not come to lie within its neighbour.
    below_WHQ = np.maximum.accumulate(distance_WHQ[..., median::-1], axis=-1)[..., :0:-1]
    above_WHQ = np.maximum.accumulate(distance_WHQ[..., median:], axis=-1)[..., 1:]
    stretched: Floats = np.concatenate([middle_WH1 - below_WHQ, middle_WH1, middle_WH1 + above_WHQ], axis=-1)
    return stretched


def _factors(
    y_WH: Floats, forecast_WHQ: Floats, power_W: Floats, levels: Sequence[float], median: int
) -> Floats:
    """(H, Q) for each step and level, the distance within which so many of the targets lie."""
    factor_HQ = np.ones(forecast_WHQ.shape[1:])
    for number, level in enumerate(levels):
        if number == median:
            continue
        side = 1.0 if number > median else -1.0
        distance_WH = side * (forecast_WHQ[..., number] - forecast_WHQ[..., median]) * power_W[:, np.newaxis]
        # Where a network sees no distance, none can be stretched.
        usable_WH = ~np.isnan(y_WH) & (distance_WH > 0)
        error_WH = side * (y_WH - forecast_WHQ[..., median])
        score_WH = np.divide(error_WH, distance_WH, out=np.full_like(error_WH, np.nan), where=usable_WH)
        factor_HQ[:, number] = [*_order_statistics(score_WH, level if side > 0 else 1 - level)]
    return factor_HQ


def _order_statistics(score_WH: Floats, share: float) -> Iterator[float]:
    """For each step the ceil((n + 1) share)-th smallest of its n scores, or the largest where n is too small;
    not below 0, where the quantile meets the median."""
    for score_W in score_WH.T:
        seen = score_W[~np.isnan(score_W)]
        # Less a hair: (9 + 1) * .9 is 9.000000000000002 in some orders of the same product.
        rank = min(int(np.ceil((len(seen) + 1) * share - 1e-9)), len(seen))
        yield max(float(np.partition(seen, rank - 1)[rank - 1]), 0.0) if len(seen) else 1.0
