"""AdamW as every training here uses it, and one step of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lstm.kernels import descent
from lstm.training.device import threads_for
from lstm.training.recipe import TrainingConfig

BETAS = (0.9, 0.999)
EPSILON = 1e-8


def is_decayed(parameter: Tensor) -> bool:
    """True for matrices: biases and other vectors are not decayed."""
    return parameter.ndim >= 2


def ordered(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Parameters in the order in which `adamw` has them: those that are decayed first."""
    return sorted(parameters, key=lambda parameter: not is_decayed(parameter))


def adamw(model: nn.Module, training: TrainingConfig) -> torch.optim.AdamW:
    """The optimizer of a network's parameters (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if is_decayed(p)], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if not is_decayed(p)], "weight_decay": 0.0},
    ]
    device = parameters[0].device
    on_gpu = device.type == "cuda"
    # A graph of steps must find the rate in memory, and AdamW must count the steps there.
    rate = torch.tensor(training.learning_rate, device=device) if on_gpu else training.learning_rate
    return torch.optim.AdamW(groups, lr=rate, betas=BETAS, eps=EPSILON, fused=True, capturable=on_gpu)


def descend(
    optimizer: torch.optim.AdamW,
    loss: Tensor,
    rate: Tensor,
    clip: float,
    averages: Sequence[Tensor] = (),
    towards: float = 0.0,
) -> None:
    """One step down a loss.

    Args:
        rate: the learning rate of this step, a scalar.
        clip: the largest norm of the gradient of all parameters.
        averages: moving averages of the parameters, in `ordered`'s order.
        towards: the share of the way that these move towards the new weights.
    """
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].copy_(rate)
        else:
            group["lr"] = rate.item()
        # Optimizers' own `zero_grad` announces itself to torch's profiler, which takes longer than this.
        for parameter in group["params"]:
            parameter.grad = None
    loss.backward()  # type: ignore[no-untyped-call]
    if descent.step(optimizer, clip, averages, towards):
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    with threads_for(sum(parameter.numel() for parameter in parameters)):
        nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        move(averages, parameters, towards)


@torch.no_grad()
def move(averages: Sequence[Tensor], parameters: Sequence[Tensor], towards: float) -> None:
    """Move averages by a share of the way towards the parameters; all the way by 1."""
    if averages:
        torch._foreach_lerp_(list(averages), list(parameters), towards)
