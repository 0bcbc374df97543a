"""Masked-segment pre-training: an encoder learns to fill in what was hidden before it learns to forecast.

As BERT does with words (Devlin et al. 2019, arXiv:1810.04805), over segments of a series (Nie et al. 2023,
arXiv:2211.14730). A recurrence that reads forwards fills a segment in from those before it, which is what a
forecast asks of it too.

Axes: B batch, L lookback steps, C columns, G segments, K hidden size, P steps of a segment, S steps of an
epoch, D what the encoder reads of a step.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from lstm.models.dropout import set_key
from lstm.models.forecaster import Forecaster
from lstm.training.batches import Batches, Inputs
from lstm.training.device import send
from lstm.training.initial import seeded
from lstm.training.optimizer import adamw, descend
from lstm.training.recipe import TrainingConfig
from lstm.training.schedule import learning_rate

SHARE = 0.4
"""Of the segments that are hidden, as in the publication on series."""

# Apart from the streams of the epochs that follow, which count from 0.
_FIRST_STREAM = 2**32


class MaskedSegments(nn.Module):
    """An encoder, the token that stands for a hidden segment, and a linear map back to its values.

    Raises:
        ValueError: the encoder reads step by step and has no segments.
    """

    def __init__(self, model: Forecaster) -> None:
        super().__init__()
        config = model.config
        if config.segment_length == 1:
            raise ValueError("pretrain_epochs: segment_length 1 has no segments to hide. Remedy: 0 epochs")
        self.model = model
        self.token_K = nn.Parameter(torch.zeros(config.hidden_size))
        self.restore = nn.Linear(config.hidden_size, config.segment_length)

    def forward(self, inputs: Inputs, hidden_BG: Tensor) -> Tensor:
        """A scalar: the mean squared error of the target's normalised values, hidden and observed ones."""
        model, count = self.model, self.model.config.channels_read
        identity_BE = None if model.identity is None else model.identity(inputs.static_BD, inputs.series_B)
        x_BLD, _, _ = model.encoder_inputs(inputs.x_BLC, inputs.observed_BLC, inputs.known_BLK, identity_BE)
        h_BGK = torch.where(hidden_BG[..., None], self.token_K, model.encoder.segments(x_BLD))
        restored_BGP = self.restore(model.encoder.states(h_BGK))
        error_BGP = restored_BGP - x_BLD[..., 0].view_as(restored_BGP)
        counts_BGP = x_BLD[..., count].view_as(restored_BGP) * hidden_BG[..., None]
        loss: Tensor = (error_BGP.square() * counts_BGP).sum() / counts_BGP.sum().clamp_min(1)
        return loss


def pretrain(model: Forecaster, training: TrainingConfig, batches: Batches) -> list[float]:
    """Train a forecaster's encoder for `training.pretrain_epochs`; head and shortcut stay as they are.

    Which windows, segments and units are drawn is a function of seed and epoch alone.

    Returns:
        The mean loss of each epoch.

    Raises:
        ValueError: the network has no segments to hide.
    """
    config, device = model.config, batches.device
    with seeded(training.seed):
        masked = MaskedSegments(model).to(device)
    optimizer = adamw(masked, training)
    drawn = min(len(batches), training.windows_per_epoch)
    steps = -(-drawn // training.batch_size)
    rate = partial(learning_rate, total=training.pretrain_epochs * steps, peak=training.learning_rate)
    losses = []
    masked.train()
    for epoch in range(training.pretrain_epochs):
        generator = np.random.Generator(np.random.Philox(key=[training.seed, _FIRST_STREAM + epoch]))
        order = generator.choice(len(batches), drawn, replace=False)
        keys_S = send(generator.integers(-(2**63), 2**63, size=steps, dtype=np.int64), device)
        rates_S = send(np.array([rate(epoch * steps + number) for number in range(steps)]), device)
        total = torch.zeros((), device=device)
        for number, chosen_B in enumerate(batches.split(order, training.batch_size)):
            hidden_BG = generator.random((len(chosen_B), config.lookback // config.segment_length)) < SHARE
            set_key(model, keys_S[number])
            loss = masked(batches.inputs(chosen_B), send(hidden_BG, device))
            descend(optimizer, loss, rates_S[number], training.gradient_clip)
            total += loss.detach() * len(chosen_B)
        losses.append(float(total) / drawn)
    return losses
