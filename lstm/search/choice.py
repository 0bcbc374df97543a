"""Which of its trials a search ends with.

The best of several looks better than it is: its loss is the lowest by merit and by luck, and the windows that
come next share the merit alone. So what was KNOWN before the search, the configuration of the champion or the
middle of the space, stays unless another one's loss on the validation windows is lower by more than chance
explains, as the gate keeps a champion that is not surely beaten. To prefer the simple among what errors
cannot tell apart is an old rule (Breiman et al. 1984, Classification and Regression Trees, section 3.4.3).
A validation span with few groups of windows could never be sure: there the lowest loss is taken.

Axes: W windows, H horizon steps, Q quantile levels, G groups of windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from optuna.trial import FrozenTrial
from torch import Tensor

from lstm.evaluation.significance import difference, group_means
from lstm.models.forecaster import ForecasterConfig
from lstm.scaling import ScaledPanel
from lstm.search import places
from lstm.search.calibration import affordable, observed_targets
from lstm.training.predict import predict
from lstm.windows import Windows

FEWEST_GROUPS = 4
"""Groups of windows, of two horizons each at least, below which chance is not asked."""


def group_losses(
    panel: ScaledPanel, windows: Windows, config: ForecasterConfig, state: Mapping[str, Tensor]
) -> list[float]:
    """(G,) mean pinball losses of a configuration on groups of neighbouring windows.

    On the CPU: where other trials train on a device, it has no memory to spare.

    Args:
        panel: in the units that the weights were trained in.
        windows: those that every trial of the study is compared on; of very many, a fixed draw.
        config: the network.
        state: its weights.
    """
    chosen = affordable(windows, config)
    levels_Q = np.array(config.quantiles)
    y_WH1 = observed_targets(panel, chosen, config.horizon)[..., np.newaxis]
    error_WHQ = y_WH1 - predict(config, state, panel, chosen, torch.device("cpu"))
    loss_WH = np.maximum(levels_Q * error_WHQ, (levels_Q - 1) * error_WHQ).mean(axis=-1)
    has_target_W = ~np.isnan(loss_WH).all(axis=1)
    loss_W = np.nanmean(loss_WH[has_target_W], axis=1)
    means_G: list[float] = group_means(loss_W, chosen.steps[has_target_W], config.horizon).tolist()
    return means_G


def choose(trials: Sequence[FrozenTrial], known: int) -> tuple[FrozenTrial, str]:
    """The trial to go on with, and why it is not the one with the lowest loss; empty where it is.

    Args:
        trials: complete ones, at least one.
        known: how many of the study's first places hold what was known before.
    """
    best = min(trials, key=lambda trial: (trial.value, trial.number))
    before = [trial for trial in trials if places.place(trial) < known]
    stays = min(before, key=places.place, default=best)
    if stays is best:
        return best, ""
    loss_G, best_G = (np.array(trial.user_attrs[places.LOSSES]) for trial in (stays, best))
    gain = difference(loss_G, best_G)
    if len(loss_G) < FEWEST_GROUPS or gain.low > 0:
        return best, ""
    return stays, (
        f"known before; trial {best.number} is better by {gain.mean:.4f}, which may be chance "
        f"(95 % from {gain.low:.4f} to {gain.high:.4f})"
    )
