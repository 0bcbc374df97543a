"""What a training minimises, over what was observed.

Axes: B batch, H horizon steps, Q quantiles.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from lstm.kernels import quantiles

Loss = Literal["pinball", "squared"]


def forecast_loss(
    loss: Loss, y_BHQ: Tensor, target_BH: Tensor, observed_BH: Tensor, levels_Q: Tensor
) -> Tensor:
    """The mean loss over observed targets and outputs, a scalar; 0 where none was observed.

    ``pinball`` makes each output its quantile: for level q and error e = target - forecast it is
    max(q e, (q - 1) e) (Koenker and Bassett 1978). ``squared`` makes an output the mean.

    Args:
        y_BHQ: forecasts.
        target_BH: finite everywhere; ignored where not observed.
        observed_BH: bool.
        levels_Q: the quantile levels.
    """
    if loss == "pinball" and quantiles.fits_loss(y_BHQ, target_BH, observed_BH, levels_Q):
        return quantiles.pinball(y_BHQ, target_BH, observed_BH, levels_Q)
    error_BHQ = target_BH[..., None] - y_BHQ
    if loss == "pinball":
        loss_BHQ = (levels_Q * error_BHQ).maximum((levels_Q - 1) * error_BHQ)
    else:
        loss_BHQ = error_BHQ.square()
    count = observed_BH.sum().clamp_min(1) * len(levels_Q)
    return (loss_BHQ * observed_BH[..., None]).sum() / count
