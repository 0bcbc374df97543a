"""Static features as numbers, and how much is learned of a series."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from data.errors import DataRefused
from data.panel import Panel
from lstm.static import StaticEncoder, embedding_size

MakePanel = Callable[..., Panel]
FEATURES = {"area": (10.0, 30.0, 20.0), "kind": ("shop", "hall", "shop"), "same": (5.0, 5.0, 5.0)}


@pytest.fixture
def panel(make_panel: MakePanel) -> Panel:
    return replace(make_panel(steps=4, series=("a", "b", "c")), static=FEATURES)


def test_numbers_are_standardised_and_categories_one_hot(panel: Panel) -> None:
    encoder = StaticEncoder.fit(panel)
    expected = np.array([[-1.224745, 0, 1, 0], [1.224745, 1, 0, 0], [0, 0, 1, 0]])
    np.testing.assert_allclose(encoder.encode(panel), expected, atol=1e-6)
    assert encoder.size == 4
    assert encoder.encode(panel).dtype == np.float32
    again = StaticEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    assert again == encoder
    np.testing.assert_array_equal(again.encode(panel.select(["c", "a"])), encoder.encode(panel)[[2, 0]])


def test_no_features_are_no_numbers(make_panel: MakePanel) -> None:
    panel = make_panel(steps=4, series=("a", "b"))
    assert StaticEncoder.fit(panel).encode(panel).shape == (2, 0)


def test_what_was_not_trained_on_is_refused(panel: Panel) -> None:
    encoder = StaticEncoder.fit(panel)
    cases = {
        "series b, column kind: 'fair', where the model was trained on one of hall, shop": {
            "kind": ("shop", "fair", "shop")
        },
        "series a, column area: 'big', where the model was trained on numbers": {"area": ("big", 1.0, 1.0)},
        "static features area, kind; the model was trained on area, kind, same": None,
    }
    for message, changed in cases.items():
        static = (
            {name: FEATURES[name] for name in ("area", "kind")} if changed is None else FEATURES | changed
        )
        with pytest.raises(DataRefused, match=message):
            encoder.encode(replace(panel, static=static))


def test_the_embedding_grows_with_what_is_to_be_told_apart() -> None:
    assert [embedding_size(count) for count in (1, 2, 3, 10, 100, 10_000, 10**6)] == [0, 2, 3, 5, 8, 15, 16]
