"""Many small trainings as one: a lane each, with weights, learning rate, seed and hidden size of its own.

A small network leaves most of a GPU idle, and its time goes into launching kernels. Lanes make the training
an axis of the kernel: one launch computes a step of all of them. The network stays written once, in
`lstm.models`; `torch.vmap` turns its products into batched ones, and on a GPU a step is one graph.

Lanes of one bucket may differ in hidden size, and in what they take off their windows. The smaller networks
are padded with units whose weights are zero, and stay zero: such a unit's output is 0 and nothing reads it,
so no gradient reaches it.

Axes: P lanes (parallel trainings), B batch, H horizon steps, Q quantiles, S steps of an epoch,
N parameters of the padded network, O of a lane's own.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lstm.kernels import stacked
from lstm.kernels.dispatch import layers_from
from lstm.models.forecaster import Forecaster, build
from lstm.training.batches import Batches, Inputs
from lstm.training.device import network_type, send
from lstm.training.graphs import Repeated
from lstm.training.loss import forecast_loss
from lstm.training.optimizer import BETAS, EPSILON, is_decayed
from lstm.training.padding import unpadded
from lstm.training.trainer import Plan, Trainer

Named = dict[str, Tensor]


def bucket(trainer: Trainer) -> Hashable:
    """What trainings must share to be lanes of one launch: the data, and all shapes but the hidden size.

    A transformer's too: padding would change the mean over units by which it normalises. What is taken off
    each window has no shape.
    """
    config, training = replace(trainer.config, dropout=0.0, normalisation="none"), trainer.training
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
    """Places for trainings of one bucket, which train their epochs together.

    Each training follows `Trainer.train_epoch`: the same windows, masks, rates and AdamW steps, up to
    rounding. It takes a place with the first epoch that it is trained for here, and its weights stay there
    until it gives the place up; its trainer gets them by `put_back`, or what is to be kept by `bring_best`.

    Args:
        trainers: at least one, all of one `bucket`: there are places for as many, or the next of 1, 2, 3, 4,
            6, 8, 12, 16, 24 and so on; and the network is as large as their largest.
        train, validation: its windows, on the device.
        least: places at least.

    Attributes:
        weights_PN, average_PN, first_PN, second_PN, best_PN: every place's parameters, their moving average,
            AdamW's moments, and the best average; matrices before vectors.
    """

    def __init__(
        self, trainers: Sequence[Trainer], train: Batches, validation: Batches | None, least: int = 1
    ) -> None:
        places, self._least = max(least, _rounded(len(trainers))), least
        self._places: list[Trainer | None] = [None] * places
        self._device, self._loss = train.device, trainers[0].training.loss
        self._levels_Q = torch.tensor(trainers[0].config.quantiles, device=self._device)
        self._batch_size = trainers[0].training.batch_size
        # Memory of its own: a graph reads where it read when it was captured.
        self._train, self._validation = train.apart(), None if validation is None else validation.apart()
        self._network = _largest(trainers)
        named = sorted(self._network.named_parameters(), key=lambda item: not is_decayed(item[1]))
        self._shapes = {name: parameter.shape for name, parameter in named}
        self._matrices = sum(parameter.numel() for _, parameter in named if is_decayed(parameter))
        count = sum(prod(shape) for shape in self._shapes.values())
        self._state = torch.zeros(5, places, count, device=self._device)
        self.weights_PN, self.average_PN, self.first_PN, self.second_PN, self.best_PN = self._state
        self._kind = network_type(self._device)
        self._gradient_PN = torch.empty_like(self.weights_PN, dtype=self._kind)
        self._buffers = {
            name: torch.stack([trainers[0].model.get_buffer(name)] * places).to(self._device)
            for name, _ in self._network.named_buffers()
        }
        self._indices: dict[int, Tensor] = {}
        self._is_live_P = torch.zeros(places, dtype=torch.bool, device=self._device)
        self._total_P = torch.zeros(places, device=self._device)
        self._count = torch.zeros((), device=self._device)
        self._step, self._look = Repeated(), Repeated()

    def suit(self, trainers: Sequence[Trainer]) -> bool:
        """Whether these can train here, and fill at least half of the places, or there are but few."""
        largest, places = self._network.config, len(self._places)
        return len(trainers) <= places <= max(self._least, 2 * len(trainers)) and all(
            trainer.config.hidden_size <= largest.hidden_size
            and (largest.dropout > 0 or trainer.config.dropout == 0)
            for trainer in trainers
        )

    def train_epoch(self, trainers: Sequence[Trainer]) -> list[tuple[float, float | None]]:
        """Train these for their next epoch: the training loss of each, and its average's validation loss.

        Whoever had a place and is not among them has it no more. A training whose loss is not finite learns
        nothing from that step on, and returns such a loss. The device is waited for once, at the end.

        Args:
            trainers: as `suit` allows.
        """
        self._seat(trainers)
        with layers_from(lambda module: stacked.layer):
            self._train_steps()
            parts_P = [self._total_P.clone()]
            if self._validation is not None:
                self._validate_all(self._validation)
                parts_P.append(self._total_P / self._count)
        rows = torch.stack(parts_P, dim=1).tolist()
        losses = [(train_loss, loss[0] if loss else None) for train_loss, *loss in rows]
        self._keep(
            [
                trainer is not None and trainer.improves(*own)
                for trainer, own in zip(self._places, losses, strict=True)
            ]
        )
        return [losses[self._places.index(trainer)] for trainer in trainers]

    @torch.no_grad()
    def take_over(self, other: Lanes, trainers: Sequence[Trainer]) -> None:
        """Give places to those of these who have one in other lanes, as they are there."""
        for place, trainer in enumerate(other._places):
            if trainer is not None and trainer in trainers:
                own_5O = other._state[:, place, other._index(trainer)]
                self._take(trainer, own_5O, {name: buffer[place] for name, buffer in other._buffers.items()})

    @torch.no_grad()
    def bring_best(self, trainer: Trainer) -> None:
        """Bring a trainer its best average, if it has a place here. Its epochs are recorded."""
        if trainer in self._places and trainer.progress.best_epoch:
            best_O = self.best_PN[self._places.index(trainer), self._index(trainer)].cpu()
            state = trainer.average.state_dict()
            parts = _split(best_O, [state[name] for name in self._shapes])
            best = dict(zip(self._shapes, parts, strict=True))
            trainer.progress.best = {name: best[name].clone() for name in state}

    @torch.no_grad()
    def put_back(self, trainer: Trainer) -> None:
        """Bring a trainer to where it would be had it trained its epochs alone, if it has a place here.

        Its epochs are recorded.
        """
        if trainer in self._places:
            own_5O = self._state[:, self._places.index(trainer), self._index(trainer)]
            # First the moments: with its optimizer a trainer comes to the device.
            moments = self._moments(trainer)
            for flat_O, own in zip(own_5O, [*self._weights(trainer), *moments], strict=False):
                torch._foreach_copy_(own, _split(flat_O, own))
            for parameter in trainer.model.parameters():
                trainer.optimizer.state[parameter]["step"].fill_(trainer.first_step)
            self.bring_best(trainer)

    @torch.no_grad()
    def _seat(self, trainers: Sequence[Trainer]) -> None:
        """Give newcomers the places of those who are gone."""
        self._places = [trainer if trainer in trainers else None for trainer in self._places]
        for trainer in trainers:
            if trainer not in self._places:
                # First the moments: with its optimizer a trainer comes to the device.
                moments = self._moments(trainer) if trainer.progress.history else []
                stacks = [*self._weights(trainer), *moments]
                if best := trainer.progress.best:
                    stacks.append([best[name] for name in self._shapes])
                rows = [torch.cat([tensor.flatten() for tensor in stack]) for stack in stacks]
                own = torch.stack([row.to(self._device) for row in rows])
                self._take(trainer, own, {name: trainer.model.get_buffer(name) for name in self._buffers})

    def _take(self, trainer: Trainer, own: Tensor, buffers: Named) -> None:
        """Put a trainer's parameters, and what makes its masks, in a free place; what was there is gone.

        Args:
            own: (at most 5, O) in the order of the state; what is missing is 0.
        """
        place = self._places.index(None)
        self._places[place] = trainer
        self._state[:, place] = 0
        self._state[: len(own), place, self._index(trainer)] = own
        for name, buffer in self._buffers.items():
            buffer[place].copy_(buffers[name])

    def _weights(self, trainer: Trainer) -> list[list[Tensor]]:
        """A trainer's own parameters and their average, in the order of the stack."""
        return [
            [network.get_parameter(name).detach() for name in self._shapes]
            for network in (trainer.model, trainer.average)
        ]

    def _moments(self, trainer: Trainer) -> list[list[Tensor]]:
        """AdamW's moments of a trainer's parameters, in the order of the stack."""
        states = [_state(trainer.optimizer, trainer.model.get_parameter(name)) for name in self._shapes]
        return [[state[moment] for state in states] for moment in ("exp_avg", "exp_avg_sq")]

    def _index(self, trainer: Trainer) -> Tensor:
        """(O,) where a trainer's own parameters lie among the padded ones."""
        size = trainer.config.hidden_size
        if size not in self._indices:
            views = self._views(torch.arange(self._state.shape[-1])[None])
            parts = [
                unpadded(views[name][0], trainer.model.get_parameter(name).shape, size).reshape(-1)
                for name in self._shapes
            ]
            self._indices[size] = torch.cat(parts).to(self._device)
        return self._indices[size]

    def _views(self, stack_PN: Tensor) -> Named:
        """The parameters of a stack by name, each with the lanes as first axis."""
        parts = torch.split(stack_PN, [prod(shape) for shape in self._shapes.values()], dim=1)
        named = zip(self._shapes.items(), parts, strict=True)
        return {name: torch.unflatten(part, 1, shape) for (name, shape), part in named}

    def _read(self, stack_PN: Tensor) -> Named:
        """Parameters as the networks read them: rounded once, instead of by each operation.

        One by one, since a view of them all together would begin where no fast product can.
        """
        return {name: view.to(self._kind) for name, view in self._views(stack_PN).items()}

    def _train_steps(self) -> None:
        """An epoch of everyone; its mean training losses in `_total_P`."""
        plans = [None if trainer is None else trainer.plan() for trainer in self._places]
        known = next(plan for plan in plans if plan is not None)
        idle = Plan(np.zeros_like(known.order), np.zeros_like(known.keys), np.zeros_like(known.rates), 0)
        orders = np.stack([(plan or idle).order for plan in plans])
        keys_SP = send(np.stack([(plan or idle).keys for plan in plans], axis=1), self._device)
        factors = send(self._factors(plans, len(known.rates)), self._device)
        self._is_live_P.copy_(send(np.array([plan is not None for plan in plans]), self._device))
        self._total_P.zero_()
        self._network.train()
        for number, chosen_PB in enumerate(self._train.split(orders, self._batch_size)):
            self._step(self._train_step, chosen_PB, keys_SP[number], factors[number])
        self._total_P /= len(known.order)

    def _train_step(self, chosen_PB: Tensor, key_P: Tensor, factors: Tensor) -> None:
        keys = {name: key_P for name in self._buffers if name.endswith(".key")}
        leaves = {name: view.detach().requires_grad_() for name, view in self._read(self.weights_PN).items()}
        loss_P = self._losses({**leaves, **self._buffers, **keys}, self._train, chosen_PB)
        gradients = torch.autograd.grad(loss_P.sum(), list(leaves.values()))
        torch.cat([gradient.flatten(1) for gradient in gradients], dim=1, out=self._gradient_PN)
        self._is_live_P &= loss_P.isfinite()
        self._update(self._is_live_P[:, None], factors)
        self._total_P += loss_P.detach() * chosen_PB.shape[1]

    def _losses(self, state: Named, batches: Batches, chosen: Tensor) -> Tensor:
        """(P,) losses of parameters and buffers with a leading axis of lanes.

        Args:
            chosen: (P, B) windows (indices) of each lane, or (B,) the same for all.
        """
        axis = 0 if chosen.dim() == 2 else None

        def loss(state: Named, inputs: Inputs, target_BH: Tensor, observed_BH: Tensor) -> Tensor:
            y_BHQ: Tensor = torch.func.functional_call(self._network, state, tuple(inputs))
            return forecast_loss(self._loss, y_BHQ.float(), target_BH, observed_BH, self._levels_Q)

        is_mixed = self._kind is not torch.float32
        with torch.autocast(self._device.type, self._kind) if is_mixed else nullcontext():
            losses_P: Tensor = torch.vmap(loss, in_dims=(0, axis, axis, axis))(
                state, batches.inputs(chosen), *batches.targets(chosen)
            )
        return losses_P

    def _factors(self, plans: Sequence[Plan | None], steps: int) -> NDArray[np.float32]:
        """(S, 5, P, 1) what differs between lanes in `_update`, in the order in which it takes them."""
        idle = np.broadcast_to([[1.0], [1.0], [0.0], [1.0], [0.0]], (5, steps))
        columns = []
        for trainer, plan in zip(self._places, plans, strict=True):
            if trainer is None or plan is None:
                columns.append(idle)
                continue
            training = trainer.training
            taken = plan.first_step + 1 + np.arange(steps)
            # Of the second moment's root: the rate and epsilon bear it, so that no parameter has to.
            root = np.sqrt(1 - BETAS[1] ** taken)
            columns.append(
                np.stack(
                    [
                        np.full(steps, training.gradient_clip),
                        1 - plan.rates * training.weight_decay,
                        plan.rates * root / (1 - BETAS[0] ** taken),
                        EPSILON * root,
                        np.where(taken == 1, 1.0, 1 - training.average_decay),
                    ]
                )
            )
        return np.array(columns, dtype=np.float32).transpose(2, 1, 0)[..., None]

    def _update(self, is_live_P1: Tensor, factors: Tensor) -> None:
        """One step of clipping, AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) and averaging.

        All lanes and parameters are one matrix, so it takes a dozen launches whatever their number.
        """
        clip_P1, kept_P1, rate_P1, epsilon_P1, average_P1 = factors
        self._gradient_PN.masked_fill_(~is_live_P1, 0.0)
        norm_P1 = torch.linalg.vector_norm(self._gradient_PN, dim=1, keepdim=True, dtype=torch.float32)
        gradient_PN = self._gradient_PN * (clip_P1 / (norm_P1 + 1e-6)).clamp(max=1)
        self.weights_PN[:, : self._matrices].mul_(kept_P1)
        self.first_PN.lerp_(gradient_PN, 1 - BETAS[0])
        self.second_PN.lerp_(gradient_PN.square_(), 1 - BETAS[1])
        spread_PN = self.second_PN.sqrt().add_(epsilon_P1)
        self.weights_PN.addcmul_(self.first_PN / spread_PN, rate_P1, value=-1)
        self.average_PN.lerp_(self.weights_PN, average_P1)

    def _validate_all(self, batches: Batches) -> None:
        """The losses of the averaged weights, on the same windows: their sum, and of how many targets."""
        self._total_P.zero_()
        self._count.zero_()
        self._network.eval()
        with torch.no_grad():
            for chosen_B in batches.in_order(4 * self._batch_size):
                self._look(self._validate, chosen_B)

    def _validate(self, chosen_B: Tensor) -> None:
        assert self._validation is not None
        observed = self._validation.targets(chosen_B)[1].sum()
        averages = {**self._read(self.average_PN), **self._buffers}
        self._total_P += self._losses(averages, self._validation, chosen_B) * observed
        self._count += observed

    def _keep(self, is_better: Sequence[bool]) -> None:
        """Note the averages that are the best of their trainings."""
        is_better_P = send(np.array(is_better), self._device)
        torch.where(is_better_P[:, None], self.average_PN, self.best_PN, out=self.best_PN)


def _rounded(count: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24 and so on: powers of two, and one and a half of each."""
    power = 1 << (count - 1).bit_length()
    return power * 3 // 4 if power >= 4 and count <= power * 3 // 4 else power


def _split(flat_O: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """A trainer's own parameters one after the other, in these shapes."""
    parts = torch.split(flat_O, [tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]


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
