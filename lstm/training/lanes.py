"""Many small trainings as one: a lane each, with weights, learning rate, seed and hidden size of its own.

A small network leaves most of a GPU idle, and its time goes into launching kernels. Lanes make the training
an axis of the kernel: one launch computes a step of all of them. The network stays written once, in
`lstm.models`; `torch.vmap` turns its products into batched ones.

Lanes of one bucket may differ in hidden size. The smaller networks are padded with units whose weights are
zero, and stay zero: such a unit's output is 0 and nothing reads it, so no gradient reaches it.

Axes: P lanes (parallel trainings), B batch, H horizon steps, Q quantiles, S steps of an epoch,
N parameters of the padded network.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lstm.kernels import using
from lstm.models.forecaster import Forecaster, build
from lstm.training.batches import Batches, Inputs
from lstm.training.device import send
from lstm.training.loss import forecast_loss
from lstm.training.optimizer import BETAS, EPSILON, is_decayed
from lstm.training.padding import unpadded
from lstm.training.trainer import Trainer

Named = dict[str, Tensor]


def bucket(trainer: Trainer) -> Hashable:
    """What trainings must share to be lanes of one launch: the data, and all shapes but the hidden size.

    A transformer's too: padding would change the mean over units by which it normalises.
    """
    config, training = replace(trainer.config, dropout=0.0), trainer.training
    if config.cell != "transformer":
        config = replace(config, hidden_size=1)
    return (
        config,
        training.batch_size,
        training.windows_per_epoch,
        training.loss,
        trainer.data,
        trainer.device,
    )


class Lanes:
    """Trainings of one bucket, stacked for one epoch.

    Each lane follows `Trainer.train_epoch`: the same windows, masks, rates and AdamW steps, up to rounding.

    Args:
        trainers: at least one, all of one `bucket`.

    Attributes:
        weights_PN, average_PN, first_PN, second_PN: every lane's parameters, their moving average, and
            AdamW's moments; matrices before vectors.
    """

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self._trainers = trainers
        self._device = trainers[0].device
        self._plans = [trainer.plan() for trainer in trainers]
        self._network = _largest(trainers)
        named = sorted(self._network.named_parameters(), key=lambda item: not is_decayed(item[1]))
        self._shapes = {name: parameter.shape for name, parameter in named}
        self._matrices = sum(parameter.numel() for _, parameter in named if is_decayed(parameter))
        count = sum(prod(shape) for shape in self._shapes.values())
        state = torch.zeros(4, len(trainers), count, device=self._device)
        self.weights_PN, self.average_PN, self.first_PN, self.second_PN = state.unbind()
        for stacked, own in self._pairs():
            stacked.copy_(own)
        self._buffers = {
            name: torch.stack([trainer.model.get_buffer(name) for trainer in trainers])
            for name, _ in self._network.named_buffers()
        }

    def train_epoch(self, train: Batches, validation: Batches | None) -> list[tuple[float, float | None]]:
        """Train every lane for its next epoch: the training loss of each, and its average's validation loss.

        A lane whose loss is not finite learns nothing from that step on, and returns such a loss. The
        device is waited for once, at the end.
        """
        with using("reference"):
            train_losses_P = self._train(train)
            if validation is None:
                return [(loss, None) for loss in train_losses_P.tolist()]
            losses_P = self._evaluate(validation)
        return [(one, two) for one, two in torch.stack([train_losses_P, losses_P], dim=1).tolist()]

    def put_back(self) -> None:
        """Bring every trainer to where it would be had it trained the epoch alone."""
        for stacked, own in self._pairs():
            own.copy_(stacked)
        for trainer, plan in zip(self._trainers, self._plans, strict=True):
            steps = plan.first_step + len(plan.rates)
            for parameter in trainer.model.parameters():
                _state(trainer.optimizer, parameter)["step"].fill_(steps)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each lane's part of the stacked tensors, with the trainer's own tensor in the same shape."""
        stacks = [self.weights_PN, self.average_PN, self.first_PN, self.second_PN]
        views = [self._views(stack) for stack in stacks]
        for place, trainer in enumerate(self._trainers):
            for name, parameter in trainer.model.named_parameters():
                state = _state(trainer.optimizer, parameter)
                average = trainer.average.get_parameter(name)
                owns = [parameter, average, state["exp_avg"], state["exp_avg_sq"]]
                for view, own in zip(views, owns, strict=True):
                    part = unpadded(view[name][place], own.shape, trainer.config.hidden_size)
                    yield part, own.detach().view(part.shape)

    def _views(self, stack_PN: Tensor) -> Named:
        """The parameters of a stack by name, each with the lanes as first axis."""
        parts = torch.split(stack_PN, [prod(shape) for shape in self._shapes.values()], dim=1)
        named = zip(self._shapes.items(), parts, strict=True)
        return {name: torch.unflatten(part, 1, shape) for (name, shape), part in named}

    def _train(self, batches: Batches) -> Tensor:
        """(P,) mean training losses of the epoch."""
        orders = np.stack([plan.order for plan in self._plans])
        keys_SP = send(np.stack([plan.keys for plan in self._plans], axis=1), self._device)
        factors = send(self._factors(), self._device)
        views = self._views(self.weights_PN)
        leaves = {name: view.detach().requires_grad_() for name, view in views.items()}
        gradient_PN = torch.empty_like(self.weights_PN)
        is_finite_P = torch.ones(len(self._trainers), dtype=torch.bool, device=self._device)
        total_P = torch.zeros(len(self._trainers), device=self._device)
        self._network.train()
        for step, chosen_PB in enumerate(batches.split(orders, self._trainers[0].training.batch_size)):
            keys = {name: keys_SP[step] for name in self._buffers if name.endswith(".key")}
            loss_P = self._losses({**leaves, **self._buffers, **keys}, batches, chosen_PB)
            gradients = torch.autograd.grad(loss_P.sum(), list(leaves.values()))
            torch.cat([gradient.flatten(1) for gradient in gradients], dim=1, out=gradient_PN)
            is_finite_P &= loss_P.isfinite()
            self._update(gradient_PN, is_finite_P[:, None], factors[step])
            total_P += loss_P.detach() * chosen_PB.shape[1]
        return total_P / len(self._plans[0].order)

    def _losses(self, state: Named, batches: Batches, chosen: Tensor) -> Tensor:
        """(P,) losses of parameters and buffers with a leading axis of lanes.

        Args:
            chosen: (P, B) windows (indices) of each lane, or (B,) the same for all.
        """
        axis = 0 if chosen.dim() == 2 else None
        kind = self._trainers[0].training.loss

        def loss(state: Named, inputs: Inputs, target_BH: Tensor, observed_BH: Tensor) -> Tensor:
            y_BHQ: Tensor = torch.func.functional_call(self._network, state, tuple(inputs))
            return forecast_loss(kind, y_BHQ.float(), target_BH, observed_BH, self._trainers[0].levels_Q)

        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            losses_P: Tensor = torch.vmap(loss, in_dims=(0, axis, axis, axis))(
                state, batches.inputs(chosen), *batches.targets(chosen)
            )
        return losses_P

    def _factors(self) -> NDArray[np.float32]:
        """(S, 5, P, 1) what differs between lanes in `_update`, in the order in which it takes them."""
        columns = []
        for trainer, plan in zip(self._trainers, self._plans, strict=True):
            training = trainer.training
            steps = plan.first_step + 1 + np.arange(len(plan.rates))
            columns.append(
                [
                    np.full(len(steps), training.gradient_clip),
                    1 - plan.rates * training.weight_decay,
                    plan.rates / (1 - BETAS[0] ** steps),
                    np.sqrt(1 - BETAS[1] ** steps),
                    np.where(steps == 1, 1.0, 1 - training.average_decay),
                ]
            )
        return np.array(columns, dtype=np.float32).transpose(2, 1, 0)[..., None]

    def _update(self, gradient_PN: Tensor, is_finite_P1: Tensor, factors: Tensor) -> None:
        """One step of clipping, AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) and averaging.

        All lanes and parameters are one matrix, so it takes a dozen launches whatever their number.
        """
        clip_P1, kept_P1, rate_P1, root_P1, average_P1 = factors
        scale_P1 = (clip_P1 / (gradient_PN.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1)
        gradient_PN = torch.where(is_finite_P1, gradient_PN * scale_P1, 0.0)
        self.weights_PN[:, : self._matrices].mul_(kept_P1)
        self.first_PN.lerp_(gradient_PN, 1 - BETAS[0])
        self.second_PN.mul_(BETAS[1]).addcmul_(gradient_PN, gradient_PN, value=1 - BETAS[1])
        spread_PN = (self.second_PN.sqrt() / root_P1).add_(EPSILON)
        self.weights_PN.addcmul_(self.first_PN / spread_PN, rate_P1, value=-1)
        self.average_PN.lerp_(self.weights_PN, average_P1)

    def _evaluate(self, batches: Batches) -> Tensor:
        """(P,) mean losses of the averaged weights, on the same windows."""
        total_P = torch.zeros(len(self._trainers), device=self._device)
        count = torch.zeros((), device=self._device)
        averages = {**self._views(self.average_PN), **self._buffers}
        self._network.eval()
        with torch.no_grad():
            for chosen_B in batches.in_order(4 * self._trainers[0].training.batch_size):
                observed = batches.targets(chosen_B)[1].sum()
                total_P += self._losses(averages, batches, chosen_B) * observed
                count += observed
        return total_P / count


def _largest(trainers: Sequence[Trainer]) -> Forecaster:
    """A network of the largest hidden size, without memory: its tensors are put in by name.

    Its dropout rate is one that is not skipped if any lane's is not.
    """
    hidden_size = max(trainer.config.hidden_size for trainer in trainers)
    dropout = max(trainer.config.dropout for trainer in trainers)
    with torch.device("meta"):
        return build(replace(trainers[0].config, hidden_size=hidden_size, dropout=dropout))


def _state(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Named:
    """AdamW's state of a parameter; zeros before the first step, as AdamW itself begins."""
    state: Named = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)
    return state
