"""Pictures of what was found inside a network: whole, and drawn where there is little to draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pictures import holds, pixels

from data.panel import Panel
from lstm.tracking import diagnosis, drawing
from lstm.training.diagnostics.gates import Gates
from lstm.training.diagnostics.gradients import EXPLODING, VANISHING, Gradients
from lstm.training.diagnostics.importance import Importance
from lstm.windows import newest

MakePanel = Callable[..., Panel]


def gates_of(cell: str, steps: int, segment: int, units: int = 5) -> Gates:
    names: dict[str, Any] = {
        "lstm": ("input_gate", "forget_gate", "candidate", "output_gate", "cell_state", "hidden_state"),
        "gru": ("reset_gate", "update_gate", "candidate", "hidden_state"),
        "rnn": ("hidden_state",),
    }
    generator = np.random.default_rng(0)
    parts = {name: generator.random((steps, units)).astype(np.float32) for name in names[cell]}
    return Gates(cell, 2, segment, parts)


@pytest.mark.parametrize(("cell", "rows", "frequency"), [("lstm", 4, "MS"), ("gru", 3, "h"), ("rnn", 1, "D")])
def test_gates(make_panel: MakePanel, cell: str, rows: int, frequency: str) -> None:
    panel = make_panel(steps=60, frequency=frequency, series=("a", "b"), missing=0.2)
    window = newest(panel, 24).select(np.array([1]))
    picture = diagnosis.gate_picture(panel, window, 24, gates_of(cell, 4, 6))
    assert pixels(picture).shape[0] == int(150 * (2.4 + 1.35 * rows))
    assert holds(picture, drawing.INK)
    assert picture == diagnosis.gate_picture(panel, window, 24, gates_of(cell, 4, 6))


def test_gates_of_one_step_and_one_unit(make_panel: MakePanel) -> None:
    panel = make_panel(steps=60)
    pixels(diagnosis.gate_picture(panel, newest(panel, 24), 24, gates_of("lstm", 1, 24, units=1)))
    pixels(diagnosis.gate_picture(panel, newest(panel, 24), 24, gates_of("rnn", 1, 24, units=1)))


@pytest.mark.parametrize("lags", [1, 50])
@pytest.mark.parametrize("lost", [5.0, np.inf, np.nan])
def test_gradients(lags: int, lost: float) -> None:
    growth = {VANISHING: 0.1, "RNN": 0.8, "GRU": 0.7, "LSTM": 0.95, EXPLODING: 1.5}
    by_lag_K = {name: factor ** np.arange(lags) for name, factor in growth.items()}
    total = {name: float(lags_K.sum()) for name, lags_K in by_lag_K.items()}
    losses_S = {"clipped": np.linspace(1, 0.5, 9), "not clipped": np.array([1.0, *[lost] * 8])}
    picture = diagnosis.gradient_picture(Gradients(by_lag_K, total, 1.0, losses_S), "made")
    assert holds(picture, drawing.RED)
    assert lags == 1 or holds(picture, drawing.BLUE)


def test_a_training_that_is_lost_at_once_is_drawn() -> None:
    by_lag_K = {name: np.zeros(3) for name in (VANISHING, "RNN", "GRU", "LSTM", EXPLODING)}
    losses_S = {"clipped": np.full(3, 1e9), "not clipped": np.full(3, np.nan)}
    found = Gradients(by_lag_K, dict.fromkeys(by_lag_K, 0.0), 1.0, losses_S)
    pixels(diagnosis.gradient_picture(found, "made"))


def test_importance() -> None:
    columns_R = {f"column_{number}": np.array([0.01, 0.02, 0.03]) * number for number in range(20)}
    lags_R = {(0, 0): np.array([0.1, 0.2]), (1, 2): np.array([-0.01, 0.0])}
    picture = diagnosis.importance_picture(Importance(0.5, 90, columns_R, lags_R), "made", "champion")
    assert holds(picture, drawing.BLUE)
    alone = Importance(0.0, 2, {"load": np.zeros(3)}, {(0, 23): np.zeros(3)})
    pixels(diagnosis.importance_picture(alone, "made", "champion"))


@pytest.mark.parametrize("rows", [1, 5])
def test_a_title_stands_clear_of_the_line_below(rows: int) -> None:
    figure, axes = drawing.rows(rows)
    drawing.title(figure, "A title", "a line below it")
    drawing.png(figure)
    (title,) = (text for text in figure.texts if text.get_text() == "A title")
    box, below = title.get_window_extent(), axes[0].get_tightbbox()
    assert below is not None
    assert box.y0 >= below.y1
    assert box.x0 == pytest.approx(axes[0].get_window_extent().x0, abs=1.5)
