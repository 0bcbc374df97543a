"""Which differences between forecasters are more than chance: intervals and tests over groups of windows.

Windows one step apart share nearly all of their targets, and good days come in runs, so single windows are
no independent evidence. They are put into a few GROUPS of neighbours in time; the groups' means are close
to independent, and a t statistic over so few is honest about how little is known (Ibragimov and Mueller
2010, t-Statistic Based Correlation and Heterogeneity Robust Inference).

Axes: W windows, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.panel import Floats, Integers

MOST_GROUPS = 8
CONFIDENCE = 0.95
LEVEL = 0.05
"""Above this p value a difference may be chance."""
FEWEST_GROUPS = 4
"""With fewer groups hardly any difference could be told from chance."""

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Estimate:
    """A mean and its confidence interval; infinite where one group alone says nothing about chance."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Estimate):
    """A mean difference; `p` is the probability of one as large where there is none."""

    p: float


def group_means(loss_W: Floats, steps_W: Integers, horizon: int) -> Floats:
    """(G,) mean losses of groups of neighbouring windows: at most `MOST_GROUPS`, of as many origins each.

    A group spans at least two horizons, so that what neighbours share at their border is little; where the
    windows span less than that, there is one group. Windows of several series at one origin count as one:
    what moves one series often moves them all.

    Args:
        loss_W: finite.
        steps_W: the grid step of each window's origin.
        horizon: grid steps to forecast.

    Raises:
        ValueError: there is no window.
    """
    if not len(loss_W):
        raise ValueError("no windows to compare on")
    steps_O, origin_W = np.unique(steps_W, return_inverse=True)
    loss_O = np.bincount(origin_W, loss_W) / np.bincount(origin_W)
    span = int(steps_O[-1] - steps_O[0]) + 1
    count = min(MOST_GROUPS, max(1, span // (2 * horizon)), len(steps_O))
    return np.array([part.mean() for part in np.array_split(loss_O, count)])


def estimate(loss_G: Floats) -> Estimate:
    """The mean of the groups and its interval, by Student's t."""
    mean, low, high, _ = _t(loss_G)
    return Estimate(mean, low, high)


def difference(loss_G: Floats, other_G: Floats) -> Difference:
    """By how much the first loss is higher than the second, group by group."""
    return Difference(*_t(loss_G - other_G))


def holm(p: Sequence[float]) -> list[float]:
    """p values, adjusted so that among all of these tests a false alarm stays as rare as in a single one.

    Holm (1979), A Simple Sequentially Rejective Multiple Test Procedure.
    """
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * np.asarray(p, dtype=float)[order]), 1.0)
    return adjusted.tolist()


def _t(value_G: Floats) -> tuple[float, float, float, float]:
    """Mean, interval and p value of a one-sample t test against 0."""
    mean = float(value_G.mean())
    if len(value_G) < 2:
        return mean, -np.inf, np.inf, 1.0
    if np.ptp(value_G) <= _ROUNDING * np.abs(value_G).max():
        # Forecasters that do the same, or differ by the same everywhere: no chance is seen at work.
        return mean, mean, mean, float(mean == 0)
    # Half a second of imports, for which no contender's process should wait.
    from scipy import stats

    test = stats.ttest_1samp(value_G, 0.0)
    low, high = test.confidence_interval(CONFIDENCE)
    return mean, float(low), float(high), float(test.pvalue)
