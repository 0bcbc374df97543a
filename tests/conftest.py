"""Fixtures for every test: fixed seeds, and a factory of tiny panels."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest

from data.calendar import Frequency
from data.panel import Panel

if TYPE_CHECKING:
    from servers import Up


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(0)
    np.random.seed(0)


@pytest.fixture
def make_panel() -> Callable[..., Panel]:
    """``make_panel(steps=..., series=..., covariates=..., frequency=...)``: a noisy daily wave a series."""

    def make(
        steps: int = 400,
        series: tuple[str, ...] = ("",),
        covariates: tuple[str, ...] = (),
        frequency: str = "h",
        first_steps: tuple[int, ...] | None = None,
        season: int = 24,
        noise: float = 0.1,
        missing: float = 0.0,
        seed: int = 0,
    ) -> Panel:
        generator = np.random.default_rng(seed)
        starts = np.array(first_steps or (0,) * len(series), dtype=np.int64)
        lengths = steps - starts
        rows = []
        for number, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            phase = 2 * np.pi * (np.arange(start, start + length) / season + number / 7)
            columns = [10 * (number + 1) + np.sin(phase) * (number + 1)]
            columns += [np.cos(phase * (c + 2)) for c in range(len(covariates))]
            rows.append(np.stack(columns, axis=1) + noise * generator.standard_normal((length, len(columns))))
        values = np.concatenate(rows)
        values[generator.random(values.shape) < missing] = np.nan
        return Panel(
            data_set="made",
            frequency=Frequency(frequency),
            target="load",
            covariates=covariates,
            series=series,
            start=np.datetime64("2024-01-01T00:00:00", "us"),
            first_steps=starts,
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            values=values,
        )

    return make


@pytest.fixture(scope="session")
def _stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    from servers import Up

    stack = Up(tmp_path_factory.mktemp("up"))
    yield stack
    stack.end()


@pytest.fixture(scope="module")
def up(_stack: Up) -> Up:
    """A running `nightcast up`, one for all tests; started again where a test has ended it."""
    _stack.ensure()
    return _stack
