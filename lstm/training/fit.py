"""The training loop. It knows arrays and a configuration; pruning, logging and heartbeats hang on `on_epoch`.

Axes: B batch, H horizon steps, Q quantiles.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from data.errors import NightcastError
from lstm.models.forecaster import ForecasterConfig, build
from lstm.scaling import ScaledPanel
from lstm.training.batches import Batches
from lstm.training.checkpoint import (
    CheckpointError,
    EpochLoss,
    Progress,
    load_checkpoint,
    save_checkpoint,
)
from lstm.training.loss import pinball_loss
from lstm.training.recipe import TrainingConfig
from lstm.training.schedule import learning_rate
from lstm.windows import Windows

logger = logging.getLogger(__name__)

OnEpoch = Callable[[int, EpochLoss], None]


class TrainingDiverged(NightcastError):
    """A loss that is no longer a number."""


@dataclass(frozen=True)
class Fit:
    """A finished training.

    Args:
        state: the weights kept, on the CPU.
        history: the losses of every epoch.
        best_epoch: epochs after which these weights were taken.
        best_loss: their validation loss; None without validation.
    """

    state: dict[str, Tensor]
    history: tuple[EpochLoss, ...]
    best_epoch: int
    best_loss: float | None


def fit(
    config: ForecasterConfig,
    training: TrainingConfig,
    panel: ScaledPanel,
    train: Windows,
    validation: Windows | None = None,
    *,
    device: torch.device,
    epochs: int | None = None,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> Fit:
    """Train a forecaster from scratch, or on from a checkpoint.

    With validation windows it stops early and keeps the best weights; without, it trains for exactly
    `epochs` and keeps the last ones. Both follow the same learning-rate schedule, that of `max_epochs`.
    On a CPU the same arguments give the same bits.

    Args:
        epochs: where to stop at the latest; `training.max_epochs` by default.
        checkpoint: a file written after each epoch, and resumed from where it exists. One that is damaged,
            or of another training (other arguments, data among them), costs only time: it is said and
            replaced.
        on_epoch: called with the number of epochs trained (from 1) and their losses, after the checkpoint
            is written; on resuming also for the epochs before. What it raises ends the training.

    Raises:
        TrainingDiverged: the loss is not finite.
        ValueError: no training or validation windows.
    """
    if not len(train) or (validation is not None and not len(validation)):
        raise ValueError("no windows to train on, or none to validate on")
    last = training.max_epochs if epochs is None else epochs
    trainer = _Trainer(config, training, panel, train, validation, device, last)
    if checkpoint is not None and checkpoint.exists():
        try:
            trainer.load(checkpoint)
        except CheckpointError as error:
            logger.warning("%s; the training starts over", error)
    history = trainer.progress.history
    for epoch, losses in enumerate(history, start=1):
        if on_epoch is not None:
            on_epoch(epoch, losses)
    while len(history) < last and not trainer.is_patience_spent:
        trainer.train_epoch()
        if checkpoint is not None:
            trainer.save(checkpoint)
        if on_epoch is not None:
            on_epoch(len(history), history[-1])
    progress = trainer.progress
    return Fit(progress.best, tuple(history), progress.best_epoch, progress.best_loss)


class _Trainer:
    """The moving parts of one training."""

    def __init__(
        self,
        config: ForecasterConfig,
        training: TrainingConfig,
        panel: ScaledPanel,
        train: Windows,
        validation: Windows | None,
        device: torch.device,
        last: int,
    ) -> None:
        self.training = training
        self.device = device
        self.train = Batches(panel, train, config.lookback, config.horizon, device)
        self.validation = (
            None
            if validation is None
            else Batches(panel, validation, config.lookback, config.horizon, device)
        )
        with _seeded(device, training.seed, 0):
            self.model = build(config).to(device)
        average = get_ema_multi_avg_fn(training.average_decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.model, multi_avg_fn=average)
        self.optimizer = _optimizer(self.model, training)
        self.levels_Q = torch.tensor(config.quantiles, device=device)
        self.progress = Progress()
        self._arguments = (config, training, panel, train, validation, last)

    @property
    def is_patience_spent(self) -> bool:
        waited = len(self.progress.history) - self.progress.best_epoch
        return self.validation is not None and waited >= self.training.patience

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a training must share with a checkpoint to go on from it: every argument, the data too."""
        config, training, panel, train, validation, last = self._arguments
        chosen = [train] if validation is None else [train, validation]
        arrays = [panel.values, panel.observed, panel.calendar]
        arrays += [part for some in chosen for part in (some.origins, some.steps)]
        digest = hashlib.sha256()
        for array in arrays:
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
        return {
            "model": config.to_dict(),
            "training": training.to_dict(),
            "data": digest.hexdigest(),
            "epochs": last,
        }

    def train_epoch(self) -> None:
        """One epoch, its validation, and the best weights if these are they."""
        epoch = len(self.progress.history) + 1
        with _seeded(self.device, self.training.seed, epoch):
            train_loss = self._train(epoch)
        loss = None if self.validation is None else self._evaluate(self.validation)
        if not (math.isfinite(train_loss) and (loss is None or math.isfinite(loss))):
            raise TrainingDiverged(
                f"epoch {epoch}: the training loss is {train_loss}, the validation loss {loss}. "
                f"Remedy: a learning rate below {self.training.learning_rate:g}"
            )
        progress = self.progress
        progress.history.append(EpochLoss(train_loss, loss))
        if loss is None or progress.best_loss is None or loss < progress.best_loss:
            progress.best_epoch, progress.best_loss = epoch, loss
            state = self.average.module.state_dict()
            progress.best = {key: value.detach().cpu().clone() for key, value in state.items()}

    def save(self, path: Path) -> None:
        save_checkpoint(path, self.identity, self.progress, self._modules(), self.optimizer)

    def load(self, path: Path) -> None:
        self.progress = load_checkpoint(path, self.identity, self._modules(), self.optimizer)

    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "average": self.average}

    def _train(self, epoch: int) -> float:
        """Steps over the windows drawn for this epoch; their mean loss."""
        training = self.training
        generator = np.random.default_rng([training.seed, epoch])
        # Not a permutation cut short: an epoch costs the same however many windows there are.
        drawn = min(len(self.train), training.windows_per_epoch)
        order = generator.choice(len(self.train), drawn, replace=False)
        steps = -(-len(order) // training.batch_size)
        self.model.train()
        total = torch.zeros((), device=self.device)
        for number, chosen_B in enumerate(self.train.split(order, training.batch_size)):
            rate = learning_rate(
                (epoch - 1) * steps + number, training.max_epochs * steps, training.learning_rate
            )
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad()
            loss = self._loss(self.model, self.train, chosen_B)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), training.gradient_clip)
            self.optimizer.step()
            self.average.update_parameters(self.model)
            total += loss.detach() * len(chosen_B)
        return float(total) / len(order)

    def _evaluate(self, batches: Batches) -> float:
        """Mean loss of the averaged weights."""
        self.average.eval()
        total, count = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        with torch.inference_mode():
            for chosen_B in batches.in_order(4 * self.training.batch_size):
                observed = batches.targets(chosen_B)[1].sum()
                total += self._loss(self.average.module, batches, chosen_B) * observed
                count += observed
        return float(total / count)

    def _loss(self, model: nn.Module, batches: Batches, chosen_B: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            y_BHQ = model(*batches.inputs(chosen_B))
        return pinball_loss(y_BHQ.float(), *batches.targets(chosen_B), self.levels_Q)


def _optimizer(model: nn.Module, training: TrainingConfig) -> torch.optim.AdamW:
    """AdamW; biases and other vectors are not decayed."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": training.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=training.learning_rate)


@contextmanager
def _seeded(device: torch.device, seed: int, epoch: int) -> Iterator[None]:
    """Torch's randomness from (seed, epoch) inside; as it was before, outside."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
        yield
