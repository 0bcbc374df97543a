"""The training loss: pinball over quantiles, over what was observed."""

from __future__ import annotations

from torch import Tensor


def pinball_loss(y_BHQ: Tensor, target_BH: Tensor, observed_BH: Tensor, levels_Q: Tensor) -> Tensor:
    """Mean pinball (quantile) loss over observed targets and levels, a scalar; 0 where none was observed.

    For level q and error e = target - forecast: max(q e, (q - 1) e) (Koenker and Bassett 1978).

    Args:
        y_BHQ: forecast quantiles.
        target_BH: finite everywhere; ignored where not observed.
        observed_BH: bool.
        levels_Q: the quantile levels.
    """
    error_BHQ = target_BH[..., None] - y_BHQ
    loss_BHQ = (levels_Q * error_BHQ).maximum((levels_Q - 1) * error_BHQ)
    count = observed_BH.sum().clamp_min(1) * len(levels_Q)
    return (loss_BHQ * observed_BH[..., None]).sum() / count
