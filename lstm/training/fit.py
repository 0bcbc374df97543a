"""The training loop.

It knows arrays and a configuration; pruning, logging and heartbeats hang on `on_epoch`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lstm.models.forecaster import ForecasterConfig
from lstm.scaling import ScaledPanel
from lstm.training.checkpoint import CheckpointError, EpochLoss
from lstm.training.recipe import TrainingConfig
from lstm.training.trainer import Trainer
from lstm.windows import Windows

logger = logging.getLogger(__name__)

OnEpoch = Callable[[int, EpochLoss], None]


class Interrupted(Exception):
    """Raised by `on_epoch`, or a kind of this: the training ends for now, and is to go on later."""


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
    On a CPU the same arguments and number of threads give the same bits.

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
    trainer = Trainer(config, training, panel, train, validation, device, epochs)
    return run(trainer, checkpoint, on_epoch)


def run(trainer: Trainer, checkpoint: Path | None, on_epoch: OnEpoch | None, pause: float = 0.0) -> Fit:
    """The loop of `fit`.

    Args:
        pause: seconds of training between two checkpoints, and before the first; one is due in any case
            where `on_epoch` interrupts the training, by `Interrupted` or what is no Exception.
    """
    if checkpoint is not None and checkpoint.exists():
        try:
            trainer.load(checkpoint)
        except CheckpointError as error:
            logger.warning("%s; the training starts over", error)
    history = trainer.progress.history
    for epoch, losses in enumerate(history, start=1):
        if on_epoch is not None:
            on_epoch(epoch, losses)
    if not history:
        trainer.pretrain()
    saved = time.monotonic()
    while not trainer.is_over:
        trainer.train_epoch()
        is_due = time.monotonic() - saved >= pause
        if checkpoint is not None and is_due:
            trainer.save(checkpoint)
            saved = time.monotonic()
        if on_epoch is not None:
            try:
                on_epoch(len(history), history[-1])
            except BaseException as error:
                will_go_on = isinstance(error, Interrupted) or not isinstance(error, Exception)
                if checkpoint is not None and will_go_on and not is_due:
                    _save_or_say(trainer, checkpoint)
                raise
    progress = trainer.progress
    return Fit(trainer.best(), tuple(history), progress.best_epoch, progress.best_loss)


def _save_or_say(trainer: Trainer, checkpoint: Path) -> None:
    """A checkpoint; what goes wrong must not take the place of the interruption."""
    try:
        trainer.save(checkpoint)
    except Exception as error:  # noqa: BLE001 - said; the interruption goes on
        logger.warning("checkpoint %s could not be written: %s; the training starts over", checkpoint, error)
