"""Makes the pictures of docs/lstm.md: `.venv/bin/python docs/lstm_pictures.py docs/images`.

A plain LSTM over single hours, so that its gates can be read hour by hour: trained for a few epochs on the
sample data set up to its judge span, then looked into, as `nightcast explain` looks into a champion.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import torch
from PIL import Image

from data.catalog import load_catalog
from data.contract import check, resolve_as_of
from data.files import write_atomically
from data.splits import Span, split
from lstm.features import feature_names
from lstm.models.forecaster import ForecasterConfig
from lstm.settings import SHIPPED
from lstm.tracking import diagnosis
from lstm.training.diagnostics.gates import trace_gates
from lstm.training.diagnostics.gradients import compare_cells
from lstm.training.diagnostics.importance import importance
from lstm.training.recipe import Recipe, TrainingConfig
from lstm.training.refit import refit
from lstm.windows import newest, windows

EPOCHS = 6


def main(folder: Path) -> None:
    """Write lstm-gates.png, lstm-gradients.png and lstm-importance.png."""
    torch.set_num_threads(1)
    data_set = load_catalog(SHIPPED).get("household_power")
    retrain = data_set.retrain
    panel = check(data_set, resolve_as_of(data_set)).panel
    splits, features = split(panel, retrain), feature_names(panel.frequency)
    model = ForecasterConfig(
        cell="lstm",
        hidden_size=32,
        num_layers=1,
        dropout=0.0,
        segment_length=1,
        lookback=168,
        horizon=retrain.horizon,
        quantiles=retrain.quantiles,
        columns=len(panel.columns),
        calendar_features=len(features),
    )
    training = TrainingConfig(max_epochs=EPOCHS)
    before = Span(splits.train.first, splits.validation.last)
    trained = refit(Recipe(model, training, EPOCHS), panel, before, torch.device("cpu"))
    scaled, window = trained.scaler.scale(panel, model.horizon), newest(panel, model.lookback)
    judged = windows(panel, splits.judge, model.lookback, model.horizon)
    gates = trace_gates(model, trained.state, scaled, window)
    assert gates is not None
    learned = windows(panel, splits.train, model.lookback, model.horizon)
    gradients = compare_cells(scaled, learned, model.lookback, training.gradient_clip)
    found = importance(model, trained.state, panel, scaled, judged, data_set.seasons[0])
    pictures = {
        "gates": diagnosis.gate_picture(panel, window, model.lookback, gates),
        "gradients": diagnosis.gradient_picture(gradients, data_set.name),
        "importance": diagnosis.importance_picture(found, data_set.name, "LSTM"),
    }
    for name, picture in pictures.items():
        write_atomically(folder / f"lstm-{name}.png", _small(picture))


def _small(picture: bytes) -> bytes:
    """In 64 colours, which is a third of the size."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(64).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
