"""The learning-rate schedule: a short warm-up, then half a cosine."""

from __future__ import annotations

import math

_WARM_UP = 0.1
_FLOOR = 0.02


def learning_rate(step: int, total: int, peak: float) -> float:
    """The rate of a step (from 0) of a schedule of `total` steps.

    It rises linearly to `peak` over the first tenth and falls along a cosine to a fiftieth of it
    (Loshchilov and Hutter 2017, arXiv:1608.03983, one cycle). It depends on the step and the total only,
    so a training that ends sooner, or is resumed, follows the same curve.
    """
    warm_up = max(1, round(_WARM_UP * total))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    progress = min(1.0, (step - warm_up) / max(1, total - warm_up))
    return peak * (_FLOOR + (1 - _FLOOR) * (1 + math.cos(math.pi * progress)) / 2)
