"""Masked-segment pre-training: what it learns, what it changes, and that it can be had again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.panel import Panel
from data.splits import Span
from lstm.models.forecaster import ForecasterConfig, build
from lstm.scaling import Scaler
from lstm.training.batches import Batches
from lstm.training.fit import Fit, fit
from lstm.training.pretrain import SHARE, MaskedSegments, pretrain
from lstm.training.recipe import TrainingConfig
from lstm.windows import Windows, windows

CPU = torch.device("cpu")
CONFIG = ForecasterConfig("gru", 16, 1, 0.1, 6, 48, 12, (0.1, 0.5, 0.9), 2, 18, head="segments")
TRAINING = TrainingConfig(
    learning_rate=1e-2, batch_size=64, max_epochs=2, windows_per_epoch=512, pretrain_epochs=8
)
MakePanel = Callable[..., Panel]


class Case:
    def __init__(self, panel: Panel) -> None:
        self.scaled = Scaler.fit(panel, 399).scale(panel, 12)
        self.train: Windows = windows(panel, Span(0, 399), 48, 12)
        self.batches = Batches(self.scaled, self.train, 48, 12, CPU)

    def fit(self, training: TrainingConfig = TRAINING, **options: Any) -> Fit:
        return fit(CONFIG, training, self.scaled, self.train, device=CPU, **options)


@pytest.fixture
def case(make_panel: MakePanel) -> Case:
    return Case(make_panel(steps=500, series=("a", "b"), covariates=("wind",)))


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    "changes", [{}, {"cell": "transformer"}, {"cell": "lstm", "bidirectional": True, "num_layers": 2}]
)
def test_it_learns_to_fill_in_and_changes_the_encoder_alone(case: Case, changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = build(replace(CONFIG, **changes))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = pretrain(model, TRAINING, case.batches)
    assert len(losses) == 8
    assert losses[-1] < 0.8 * losses[0]
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all(name.startswith(("encoder.", "identity.")) for name in moved)


def test_a_hidden_segment_is_not_seen_and_a_seen_one_is_not_scored(case: Case) -> None:
    torch.manual_seed(0)
    masked = MaskedSegments(build(replace(CONFIG, normalisation="none"))).eval()
    inputs = case.batches.inputs(torch.arange(8))
    hidden_BG = torch.zeros(8, 8, dtype=torch.bool)
    assert masked(inputs, hidden_BG) == 0
    hidden_BG[:, -1] = True
    restored: list[Tensor] = []
    masked.restore.register_forward_hook(lambda _module, _inputs, output: restored.append(output))
    loss = masked(inputs, hidden_BG)
    other = inputs._replace(x_BLC=inputs.x_BLC.clone())
    other.x_BLC[:, -6:] += 5
    assert masked(other, hidden_BG) != loss
    assert torch.equal(*restored)
    other.observed_BLC[:, -6:, 0] = 0
    assert masked(other, hidden_BG) == 0


def test_it_can_be_had_again_and_resumed_from_after_it(case: Case, tmp_path: Path) -> None:
    whole = case.fit()
    assert same(whole.state, case.fit().state)
    assert not same(whole.state, case.fit(replace(TRAINING, pretrain_epochs=0)).state)
    path = tmp_path / "checkpoint.safetensors"
    case.fit(checkpoint=path, epochs=2)
    assert same(case.fit(checkpoint=path, epochs=2).state, whole.state)


def test_steps_have_no_segments_to_hide(case: Case) -> None:
    with pytest.raises(ValueError, match="segment_length 1 has no segments to hide"):
        pretrain(build(replace(CONFIG, segment_length=1)), TRAINING, case.batches)


def test_two_fifths_are_hidden() -> None:
    drawn = np.random.default_rng(0).random((1000, 8)) < SHARE
    assert drawn.mean() == pytest.approx(0.4, abs=0.02)
