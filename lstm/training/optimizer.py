"""AdamW as every training here uses it, and one step of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lstm.training.recipe import TrainingConfig

BETAS = (0.9, 0.999)
EPSILON = 1e-8


def is_decayed(parameter: Tensor) -> bool:
    """True for matrices: biases and other vectors are not decayed."""
    return parameter.ndim >= 2


def adamw(model: nn.Module, training: TrainingConfig) -> torch.optim.AdamW:
    """The optimizer of a network's parameters (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if is_decayed(p)], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if not is_decayed(p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=training.learning_rate, betas=BETAS, eps=EPSILON, fused=True)


def descend(optimizer: torch.optim.AdamW, loss: Tensor, rate: float, clip: float) -> None:
    """One step down a loss.

    Args:
        rate: the learning rate of this step.
        clip: the largest norm of the gradient of all parameters.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    optimizer.step()
