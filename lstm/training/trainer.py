"""One training's moving parts, network, average, optimizer and progress, and an epoch of them.

Axes: B batch, H horizon steps, Q quantiles, S steps of an epoch.
"""

from __future__ import annotations

import copy
import hashlib
import math
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.errors import NightcastError
from lstm.models.dropout import set_key
from lstm.models.forecaster import Forecaster, ForecasterConfig, build
from lstm.scaling import ScaledPanel
from lstm.training.batches import Batches
from lstm.training.checkpoint import EpochLoss, Progress, load_checkpoint, save_checkpoint
from lstm.training.device import mixed_precision, send, threads_for
from lstm.training.graphs import Repeated
from lstm.training.initial import seeded
from lstm.training.loss import forecast_loss
from lstm.training.optimizer import adamw, descend, move, ordered
from lstm.training.pretrain import pretrain
from lstm.training.recipe import TrainingConfig
from lstm.training.schedule import learning_rate
from lstm.windows import Windows


class TrainingDiverged(NightcastError):
    """A loss that is no longer a number."""


@dataclass(frozen=True)
class Plan:
    """What an epoch will do, drawn on the host before it begins: a function of seed and epoch alone.

    Args:
        order: windows (indices) in the order of their training.
        keys: (S,) int64, of the dropout of each step.
        rates: (S,) the learning rate of each step.
        first_step: steps of the epochs before.
    """

    order: NDArray[np.int64]
    keys: NDArray[np.int64]
    rates: NDArray[np.float64]
    first_step: int


class Trainer:
    """A training that goes epoch by epoch.

    Its networks lie on the CPU until it trains itself, or has a checkpoint: what trains as a lane is on the
    device with the others, and a copy of each tensor would wait for whatever runs there.

    Args:
        epochs: where it ends at the latest; `training.max_epochs` by default.

    Attributes:
        model: the network.
        average: the moving average of its weights, in a network of its own.
        progress: how far it is.

    Raises:
        ValueError: no training or validation windows, or several quantiles to fit by squared errors.
    """

    def __init__(
        self,
        config: ForecasterConfig,
        training: TrainingConfig,
        panel: ScaledPanel,
        train: Windows,
        validation: Windows | None,
        device: torch.device,
        epochs: int | None,
    ) -> None:
        if not len(train) or (validation is not None and not len(validation)):
            raise ValueError("no windows to train on, or none to validate on")
        if training.loss == "squared" and len(config.quantiles) > 1:
            raise ValueError("squared errors make a mean, not quantiles. Remedy: quantiles (0.5,)")
        self.config = config
        self.training = training
        self.device = device
        self.last = training.max_epochs if epochs is None else epochs
        self.model = _initial(config, training.seed)
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.progress = Progress()
        self._is_settled = False
        self._panel = panel
        self._windows = train, validation
        self._step, self._look = Repeated(), Repeated()

    @cached_property
    def optimizer(self) -> torch.optim.AdamW:
        """AdamW over `model`, on the device."""
        self._settle()
        return adamw(self.model, self.training)

    @property
    def is_over(self) -> bool:
        """True after the last epoch, or with the patience spent."""
        epochs = len(self.progress.history)
        waited = epochs - self.progress.best_epoch
        return epochs >= self.last or (self._windows[1] is not None and waited >= self.training.patience)

    @property
    def first_step(self) -> int:
        """Steps of the epochs so far."""
        return len(self.progress.history) * self._steps

    @property
    def _steps(self) -> int:
        """Of an epoch."""
        return -(-self._drawn // self.training.batch_size)

    @property
    def _drawn(self) -> int:
        """Windows of an epoch, which so costs the same however many there are."""
        return min(len(self._windows[0]), self.training.windows_per_epoch)

    @cached_property
    def data(self) -> str:
        """A digest of panel and windows: trainings that share it read the same."""
        digest = hashlib.sha256()
        _update(digest, self._panel)
        for windows in self._windows:
            if windows is not None:
                _update(digest, windows)
        return digest.hexdigest()

    @cached_property
    def batches(self) -> tuple[Batches, Batches | None]:
        """The windows to train and to validate on, on the device."""
        train, validation = self._windows
        return self._batches(train), None if validation is None else self._batches(validation)

    @cached_property
    def _averages(self) -> list[Tensor]:
        """The moving average, parameter by parameter as the optimizer has them."""
        return ordered(self.average.parameters())

    @cached_property
    def _levels(self) -> Tensor:
        """(Q,) the quantile levels."""
        return torch.tensor(self.config.quantiles, device=self.device)

    @cached_property
    def _sums(self) -> Tensor:
        """(2,) the sum of losses, and of how many."""
        return torch.zeros(2, device=self.device)

    def pretrain(self) -> None:
        """Pre-train the encoder for the epochs that the recipe says, before the first epoch."""
        if self.training.pretrain_epochs:
            self._settle()
            pretrain(self.model, self.training, self.batches[0])
            self.average.load_state_dict(self.model.state_dict())

    def train_epoch(self) -> None:
        """One epoch, its validation, and the best weights if these are they.

        Raises:
            TrainingDiverged: a loss is not finite.
        """
        self._settle()
        train_loss = self._train()
        if self.record(train_loss, None if self._windows[1] is None else self._evaluate()):
            state = self.average.state_dict()
            self.progress.best = {key: value.detach().cpu().clone() for key, value in state.items()}

    def plan(self) -> Plan:
        """The next epoch's plan, from a counter-based generator (Philox: Salmon et al. 2011)."""
        training, epoch = self.training, len(self.progress.history)
        generator = np.random.Generator(np.random.Philox(key=[training.seed, epoch]))
        steps, first = self._steps, self.first_step
        total = training.max_epochs * steps
        rates = [learning_rate(first + step, total, training.learning_rate) for step in range(steps)]
        return Plan(
            keys=generator.integers(-(2**63), 2**63, size=steps, dtype=np.int64),
            order=generator.choice(len(self._windows[0]), self._drawn, replace=False),
            rates=np.array(rates),
            first_step=first,
        )

    def improves(self, train_loss: float, loss: float | None) -> bool:
        """Whether the average of an epoch with these losses is to be kept: every epoch before was worse."""
        best = self.progress.best_loss
        return _are_finite(train_loss, loss) and (loss is None or best is None or loss < best)

    def record(self, train_loss: float, loss: float | None) -> bool:
        """Note an epoch's losses; True if the average is the best so far, and so to be kept.

        Raises:
            TrainingDiverged: one is not finite.
        """
        epoch = len(self.progress.history) + 1
        if not _are_finite(train_loss, loss):
            raise TrainingDiverged(
                f"epoch {epoch}: the training loss is {train_loss}, the validation loss {loss}. "
                f"Remedy: a learning rate below {self.training.learning_rate:g}"
            )
        is_best = self.improves(train_loss, loss)
        self.progress.history.append(EpochLoss(train_loss, loss))
        if is_best:
            self.progress.best_epoch, self.progress.best_loss = epoch, loss
        return is_best

    def best(self) -> dict[str, Tensor]:
        """The weights to keep, on the CPU."""
        return self.progress.best

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        save_checkpoint(path, self._identity, self.progress, self._modules, self.optimizer)

    def load(self, path: Path) -> None:
        """Go back to where a checkpoint was written.

        Raises:
            CheckpointError: it cannot be read, or is of another training.
        """
        self.progress = load_checkpoint(path, self._identity, self._modules, self.optimizer)
        # Loading gave the optimizer other tensors than those that a graph would know.
        self._step, self._look = Repeated(), Repeated()

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What a training must share with a checkpoint to go on from it: every argument, the data too."""
        return {
            "model": self.config.to_dict(),
            "training": self.training.to_dict(),
            "data": self.data,
            "epochs": self.last,
        }

    @property
    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "average": self.average}

    def _settle(self) -> None:
        """Bring the networks to the device, once.

        On a GPU each move gives recurrent layers new memory, which no captured step would know.
        """
        if not self._is_settled:
            self.model.to(self.device)
            self.average.to(self.device)
            self._is_settled = True

    @property
    def _validation(self) -> Batches:
        validation = self.batches[1]
        assert validation is not None
        return validation

    def _batches(self, windows: Windows) -> Batches:
        return Batches(self._panel, windows, self.config.lookback, self.config.horizon, self.device)

    def _train(self) -> float:
        """Steps over the windows drawn for this epoch; their mean loss."""
        plan = self.plan()
        keys_S, rates_S = send(plan.keys, self.device), send(plan.rates, self.device)
        self.model.train()
        self._sums.zero_()
        for number, chosen_B in enumerate(self.batches[0].split(plan.order, self.training.batch_size)):
            self._step(self._train_step, chosen_B, keys_S[number], rates_S[number])
            if plan.first_step + number == 0:
                move(self._averages, ordered(self.model.parameters()), 1.0)
        return float(self._sums[0]) / len(plan.order)

    def _train_step(self, chosen_B: Tensor, key: Tensor, rate: Tensor) -> None:
        set_key(self.model, key)
        loss = self._loss(self.model, self.batches[0], chosen_B)
        towards = 1 - self.training.average_decay
        descend(self.optimizer, loss, rate, self.training.gradient_clip, self._averages, towards)
        self._sums[0].add_(loss.detach(), alpha=len(chosen_B))

    def _evaluate(self) -> float:
        """Mean loss of the averaged weights."""
        self._sums.zero_()
        for chosen_B in self._validation.in_order(4 * self.training.batch_size):
            self._look(self._validate, chosen_B)
        return float(self._sums[0] / self._sums[1])

    @torch.no_grad()
    def _validate(self, chosen_B: Tensor) -> None:
        validation = self._validation
        observed = validation.targets(chosen_B)[1].sum()
        self._sums[0].add_(self._loss(self.average, validation, chosen_B) * observed)
        self._sums[1].add_(observed)

    def _loss(self, model: nn.Module, batches: Batches, chosen_B: Tensor) -> Tensor:
        with threads_for(len(chosen_B) * self.config.lookback * self.config.columns):
            inputs, (target_BH, observed_BH) = batches.inputs(chosen_B), batches.targets(chosen_B)
        with mixed_precision(self.device):
            y_BHQ = model(*inputs)
        return forecast_loss(self.training.loss, y_BHQ.float(), target_BH, observed_BH, self._levels)


def _are_finite(train_loss: float, loss: float | None) -> bool:
    return math.isfinite(train_loss) and (loss is None or math.isfinite(loss))


def _initial(config: ForecasterConfig, seed: int) -> Forecaster:
    """A network with the weights of a seed. Torch's stream of random numbers stays as it was."""
    with seeded(int(np.random.SeedSequence([seed, 0]).generate_state(1)[0])):
        return build(config)


def _update(digest: hashlib._Hash, record: Any) -> None:
    """Feed a dataclass of arrays, numbers and others of its kind to a digest, field by field."""
    for field in fields(record):
        value = getattr(record, field.name)
        if is_dataclass(value):
            _update(digest, value)
        else:
            array = np.ascontiguousarray(value)
            digest.update(f"{field.name} {array.dtype} {array.shape}".encode())
            digest.update(array.data)
