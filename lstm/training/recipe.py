"""Recipes: what makes the same weights again from the same snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lstm.models.forecaster import ForecasterConfig
from lstm.training.loss import Loss


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained.

    Args:
        learning_rate: the peak of the schedule (`lstm.training.schedule`).
        batch_size: windows a step.
        weight_decay: AdamW's, on weight matrices only.
        gradient_clip: largest norm of the gradient.
        max_epochs: the schedule's length, whether or not the training ends sooner.
        patience: epochs without a better validation loss before the training ends.
        seed: of the initial weights, the order of the windows and the dropout.
        windows_per_epoch: windows drawn, without repetition, for each epoch; a pass over them all where
            there are no more. It bounds an epoch's time however long the panel is.
        average_decay: of the exponential moving average of the weights, a step; the average is what is
            validated and kept.
        pretrain_epochs: of masked-segment pre-training (`lstm.training.pretrain`) before the first epoch.
        loss: ``pinball`` fits quantiles; ``squared``, for a single output, the mean.
    """

    learning_rate: float = 2e-3
    batch_size: int = 256
    weight_decay: float = 1e-2
    gradient_clip: float = 1.0
    max_epochs: int = 30
    patience: int = 5
    seed: int = 0
    windows_per_epoch: int = 6144
    average_decay: float = 0.98
    loss: Loss = "pinball"
    pretrain_epochs: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> TrainingConfig:
        """The inverse of `to_dict`.

        Raises:
            TypeError: an unknown key.
        """
        return cls(**raw)


@dataclass(frozen=True)
class Recipe:
    """A network, its training, and for how many epochs: found by early stopping, fixed from then on."""

    model: ForecasterConfig
    training: TrainingConfig
    epochs: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {"model": self.model.to_dict(), "training": self.training.to_dict(), "epochs": self.epochs}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_dict`.

        Raises:
            KeyError, TypeError: a key is missing or unknown.
        """
        return cls(
            ForecasterConfig.from_dict(raw["model"]), TrainingConfig.from_dict(raw["training"]), raw["epochs"]
        )
