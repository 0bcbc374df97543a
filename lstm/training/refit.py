"""From a recipe to weights: the same training again, on every window up to a given step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data.panel import Panel
from data.splits import Span
from lstm.scaling import Scaler
from lstm.training.fit import OnEpoch, fit
from lstm.training.recipe import Recipe
from lstm.windows import windows


@dataclass(frozen=True)
class Trained:
    """Weights with the scaler that they were trained in."""

    state: dict[str, Tensor]
    scaler: Scaler


def refit(
    recipe: Recipe,
    panel: Panel,
    span: Span,
    device: torch.device,
    *,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> Trained:
    """Train for exactly the recipe's epochs on the windows of a span; nothing after it is seen.

    Args:
        span: target steps. Ending before the judge span it makes *judged* weights, ending at the as-of
            step *served* ones.
        checkpoint: a file to resume from after an interruption.

    Raises:
        TrainingDiverged: the loss is not finite.
        ValueError: the span holds no window.
    """
    scaler = Scaler.fit(panel, span.last, span.first)
    config = recipe.model
    fitted = fit(
        config,
        recipe.training,
        scaler.scale(panel, config.horizon),
        windows(panel, span, config.lookback, config.horizon),
        device=device,
        epochs=recipe.epochs,
        checkpoint=checkpoint,
        on_epoch=on_epoch,
    )
    return Trained(fitted.state, scaler)
