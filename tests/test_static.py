"""Static features as numbers, and how much is learned of a series."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.calendar import Frequency
from data.errors import DataRefused
from data.panel import Panel
from lstm.static import StaticEncoder, embedding_size

MakePanel = Callable[..., Panel]
FEATURES = {"area": (10.0, 30.0, 20.0), "kind": ("shop", "hall", "shop"), "same": (5.0, 5.0, 5.0)}


def sites(value: float, count: int) -> Panel:
    """So many series of one step, all with the same area."""
    names, start = tuple(map(str, range(count))), np.datetime64("2024-01-01", "us")
    first, offsets, values = np.zeros(count, dtype=np.int64), np.arange(count + 1), np.ones((count, 1))
    static = {"area": (value,) * count}
    return Panel("made", Frequency("h"), "load", (), names, start, first, offsets, values, static=static)


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


@given(st.floats(1e-6, 1e6), st.integers(1, 40))
def test_a_number_that_is_the_same_for_all_is_no_more_than_a_difference(value: float, count: int) -> None:
    """The deviation of equal numbers may be rounding noise: dividing by it, a change would be a huge one."""
    assert StaticEncoder.fit(sites(value, count)).features["area"][1] == 1.0


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
