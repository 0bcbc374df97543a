"""An optimizer's step in native code: torch's clipping, AdamW and moving average, wherever it runs."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from lstm.kernels import descent, library, using
from lstm.training.optimizer import adamw, descend, ordered
from lstm.training.recipe import TrainingConfig

pytestmark = pytest.mark.skipif(not library.widths(), reason="no native code for this processor")

CLIP, TOWARDS = 1.0, 0.1


class Sizes(nn.Module):
    """Parameters of these shapes, each multiplied by numbers of its own."""

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.own = nn.ParameterList([nn.Parameter(torch.randn(shape)) for shape in shapes])

    def loss(self, scale: float) -> Tensor:
        """A scalar whose gradient by each parameter is random, times this scale."""
        return sum((own.square() * torch.randn(own.shape)).sum() * scale for own in self.own)  # type: ignore[return-value]


def trained(model: nn.Module, losses: Sequence[float], kernel: str, training: TrainingConfig) -> list[Tensor]:
    """Parameters, averages and AdamW's state after a step down each loss."""
    average = copy.deepcopy(model)
    optimizer, averages = adamw(model, training), ordered(average.parameters())
    torch.manual_seed(1)
    for number, scale in enumerate(losses):
        rate = torch.tensor(1e-2 / (1 + number))
        with using(kernel):  # type: ignore[arg-type]
            descend(optimizer, model.loss(scale), rate, CLIP, averages, TOWARDS)  # type: ignore[operator]
    states = [
        optimizer.state[own][name] for own in model.parameters() for name in ("exp_avg", "exp_avg_sq", "step")
    ]
    return [*(own.detach() for own in model.parameters()), *(own.detach() for own in averages), *states]


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=2).map(tuple), min_size=1, max_size=5),
    scales=st.lists(st.sampled_from([1e-6, 0.01, 1.0, 1e6]), min_size=2, max_size=5),
    decay=st.sampled_from([0.0, 0.1]),
    width=st.sampled_from(library.widths()) if library.widths() else st.nothing(),
    seed=st.integers(0, 99),
)
def test_steps_are_those_of_torch(
    shapes: list[tuple[int, ...]], scales: list[float], decay: float, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    model = Sizes(shapes)
    training = TrainingConfig(weight_decay=decay)
    taken, step = [], descent.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "_widths", (width,))
        patch.setattr(descent, "step", lambda *given: taken.append(step(*given)) or taken[-1])
        seen = trained(copy.deepcopy(model), scales, "native", training)
    assert taken == [False, *[True] * (len(scales) - 1)]
    expected = trained(model, scales, "torch", training)
    for a, b in zip(seen, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * float(b.abs().max()))


def ready(shape: tuple[int, ...] = (20, 30)) -> tuple[nn.Parameter, torch.optim.AdamW]:
    """A parameter with a gradient, whose first step was torch's."""
    weights = nn.Parameter(torch.randn(shape))
    optimizer = torch.optim.AdamW([weights], lr=1e-3)
    weights.grad = torch.randn(shape)
    optimizer.step()
    return weights, optimizer


def test_what_it_may_not_take_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, optimizer = ready()
    assert descent.step(optimizer, CLIP, [weights.detach().clone()], TOWARDS)
    assert descent.step(optimizer, CLIP, [], 0.0)
    before, gradient = weights.detach().clone(), torch.randn(20, 30)
    first = torch.optim.AdamW([weights])
    assert not descent.step(first, CLIP, [], 0.0), "there are no moments yet"
    assert not first.state
    for unfit in (None, gradient.T.contiguous().T, gradient.mT.to_sparse().mT):
        weights.grad = unfit
        assert not descent.step(optimizer, CLIP, [], 0.0)
    weights.grad = gradient
    assert not descent.step(optimizer, CLIP, [torch.zeros(20, 29)], TOWARDS)
    assert not descent.step(optimizer, CLIP, [torch.zeros(20, 30, dtype=torch.float64)], TOWARDS)
    with using("torch"):
        assert not descent.step(optimizer, CLIP, [], 0.0)
    monkeypatch.setattr(descent, "_MOST", 599)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert not descent.step(optimizer, CLIP, [], 0.0)
    monkeypatch.setattr(descent, "_MOST", 600)
    for option in ("amsgrad", "maximize"):
        optimizer.param_groups[0][option] = True
        assert not descent.step(optimizer, CLIP, [], 0.0)
        optimizer.param_groups[0][option] = False
    assert torch.equal(weights, before)
    assert descent.step(optimizer, CLIP, [], 0.0)


def test_rates_on_a_gpu_are_not_looked_at() -> None:
    """That would wait for the GPU, which no captured step survives."""
    with FakeTensorMode():
        parameters = [nn.Parameter(torch.zeros(3, device="cuda")) for _ in range(2)]
        rates = [torch.zeros((), device="cuda") for _ in range(2)]
    groups = [{"params": [own], "lr": rate} for own, rate in zip(parameters, rates, strict=True)]
    optimizer = torch.optim.AdamW(groups, capturable=True)
    for own in parameters:
        own.grad = own.detach()
        optimizer.state[own] = {"exp_avg": own.grad, "exp_avg_sq": own.grad, "step": rates[0]}
    assert not descent.step(optimizer, CLIP, [], 0.0)


def test_groups_differ_in_their_weight_decay_only() -> None:
    weights, optimizer = ready()
    other = nn.Parameter(torch.randn(3))
    other.grad = torch.randn(3)
    optimizer.add_param_group({"params": [other], "weight_decay": 0.5})
    optimizer.step()
    assert descent.step(optimizer, CLIP, [], 0.0)
    for option, value in (("lr", 0.5), ("betas", (0.8, 0.9)), ("eps", 0.1)):
        before = optimizer.param_groups[1][option]
        optimizer.param_groups[1][option] = value
        assert not descent.step(optimizer, CLIP, [], 0.0)
        optimizer.param_groups[1][option] = before
    with pytest.raises(ValueError, match="1 averages of 2 parameters"):
        descent.step(optimizer, CLIP, [weights.detach().clone()], TOWARDS)


def test_a_graph_that_needs_the_weights_before_says_so() -> None:
    weights, optimizer = ready()
    loss = weights.square().square().sum()
    assert descent.step(optimizer, CLIP, [], 0.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_makes_what_torch_makes_of_it(bad: float) -> None:
    (weights, optimizer), other = ready((3, 7)), nn.Parameter(torch.ones(5))
    optimizer.add_param_group({"params": [other]})
    other.grad = torch.ones(5)
    optimizer.step()
    assert weights.grad is not None
    weights.grad[1, 2] = bad
    copies = [nn.Parameter(own.detach().clone()) for own in (weights, other)]
    torchs = torch.optim.AdamW([{"params": [own]} for own in copies], lr=1e-3)
    torchs.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for own, twin in zip((weights, other), copies, strict=True):
        assert own.grad is not None
        twin.grad = own.grad.clone()
    nn.utils.clip_grad_norm_(copies, CLIP)
    torchs.step()
    assert descent.step(optimizer, CLIP, [], 0.0)
    for own, twin in zip((weights, other), copies, strict=True):
        torch.testing.assert_close(own, twin, equal_nan=True)
