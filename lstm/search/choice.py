"""Which of its trials a search ends with.

The best of several looks better than it is: its loss is the lowest by merit and by luck, and the windows that
come next share the merit alone. So what was KNOWN before the search, the configuration of the champion or the
middle of the space, stays unless another one's loss on the validation windows is lower by more than chance
explains, as the gate keeps a champion that is not surely beaten. To prefer the simple among what errors
cannot tell apart is an old rule (Breiman et al. 1984, Classification and Regression Trees, section 3.4.3).
A validation span with few groups of windows could never be sure: there the lowest loss is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.trial import FrozenTrial

from data.panel import Floats
from lstm.evaluation.significance import FEWEST_GROUPS, LEVEL, difference, holm
from lstm.search import places


def choose(trials: Sequence[FrozenTrial], known: int) -> tuple[FrozenTrial, str]:
    """The trial to go on with, and what there is to say about it; empty where it simply has the lowest loss.

    Losses are those on groups of windows, which all trials share. Of several trials that are surely better
    than what was known, tested all together, it is the one with the lowest loss.

    Args:
        trials: complete ones, at least one.
        known: how many of the study's first places hold what was known before.
    """
    lowest = min(trials, key=_loss)
    before = [trial for trial in trials if places.place(trial) < known]
    if not before:
        return lowest, "nothing that was known before has finished" if known else ""
    stays = min(before, key=places.place)
    if stays is lowest or len(_losses(stays)) < FEWEST_GROUPS:
        return lowest, ""
    others = [trial for trial in trials if trial is not stays]
    gains = [difference(_losses(stays), _losses(trial)) for trial in others]
    adjusted = holm([gain.p for gain in gains])
    better = [
        trial for trial, gain, p in zip(others, gains, adjusted, strict=True) if gain.mean > 0 and p < LEVEL
    ]
    chosen = min(better, key=_loss, default=stays)
    if chosen is lowest:
        return lowest, ""
    why = "known before" if chosen is stays else "surely better than what was known"
    place = others.index(lowest)
    return chosen, (
        f"{why}; that trial {lowest.number} is better than what was known by {gains[place].mean:.4f} "
        f"may be chance (p = {adjusted[place]:.2g})"
    )


def _losses(trial: FrozenTrial) -> Floats:
    return np.array(trial.user_attrs[places.LOSSES])


def _loss(trial: FrozenTrial) -> tuple[float, int]:
    """Its mean over the groups; of equal ones the earlier trial is the lower."""
    return float(_losses(trial).mean()), trial.number
