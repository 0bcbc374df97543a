"""Checkpoints: the whole state of a training after an epoch, in one safetensors file with a JSON header.

A training resumed from one ends in the same bits as one that was never interrupted, on a CPU.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from data.errors import NightcastError
from data.files import write_atomically

_FORMAT = 2


class CheckpointError(NightcastError):
    """A checkpoint that cannot be read, or that belongs to another training."""


@dataclass(frozen=True)
class EpochLoss:
    """Mean losses of an epoch (`lstm.training.loss`), in standardised units.

    There is no validation loss without validation.
    """

    train: float
    validation: float | None = None


@dataclass
class Progress:
    """How far a training is.

    Args:
        history: the losses of every epoch so far.
        best_epoch: epochs trained when the weights in `best` were taken; 0 before the first.
        best_loss: their validation loss.
        best: the weights to keep.
    """

    history: list[EpochLoss] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float | None = None
    best: dict[str, Tensor] = field(default_factory=dict)


def save_checkpoint(
    path: Path,
    identity: Mapping[str, Any],
    progress: Progress,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write everything that the next epoch depends on, atomically.

    Args:
        identity: JSON-safe; what a training must share to resume from it.
        modules: by name, without dots.
    """
    tensors = {
        f"{name}.{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    tensors |= {f"best.{key}": value for key, value in progress.best.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": value for key, value in state.items()}
    header = {
        "format": _FORMAT,
        "identity": identity,
        "history": [asdict(losses) for losses in progress.history],
        "best_epoch": progress.best_epoch,
        "best_loss": progress.best_loss,
    }
    own = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    write_atomically(path, save(own, {"training": json.dumps(header)}))


def load_checkpoint(
    path: Path,
    identity: Mapping[str, Any],
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
) -> Progress:
    """Put modules and optimizer back where a checkpoint left them, and say how far that was.

    Raises:
        CheckpointError: the file cannot be read, or is of another format or training.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["training"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read: {error}") from error
    if header["format"] != _FORMAT or header["identity"] != json.loads(json.dumps(identity)):
        raise CheckpointError(f"checkpoint {path}: belongs to another training or version")
    for name, module in modules.items():
        module.load_state_dict(_under(tensors, name))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _under(tensors, "optimizer").items():
        number, part = key.split(".")
        state.setdefault(int(number), {})[part] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    history = [EpochLoss(**losses) for losses in header["history"]]
    return Progress(history, header["best_epoch"], header["best_loss"], _under(tensors, "best"))


def _under(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")
    }
