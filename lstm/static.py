"""What tells series apart: static features as numbers, and the size of a series embedding.

Axes: S series, D numbers of all static features together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from data.errors import DataRefused
from data.panel import Panel

_LARGEST_EMBEDDING = 16

# Numbers vary when their spread is more than rounding noise of their level.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class StaticEncoder:
    """Numbers standardised over the series, categories one-hot, in the order of the features.

    Args:
        features: by name, either mean and standard deviation, or the categories.
    """

    features: Mapping[str, tuple[float, float] | tuple[str, ...]]

    @classmethod
    def fit(cls, panel: Panel) -> StaticEncoder:
        """Of a panel's series. A number that is the same for all gets scale 1."""
        return cls({name: _fitted(values) for name, values in panel.static.items()})

    def encode(self, panel: Panel) -> NDArray[np.float32]:
        """(S, D) the static features of a panel's series.

        Raises:
            DataRefused: it has other features, or a category that was not fitted.
        """
        if panel.static.keys() != self.features.keys():
            raise DataRefused(
                f"static features {', '.join(panel.static) or 'none'}; the model was trained on "
                f"{', '.join(self.features) or 'none'}.",
                data_set=panel.data_set,
                remedy="give the static features of the training, or retrain.",
            )
        rows = [self._row(panel, number) for number in range(len(panel.series))]
        return np.array(rows, dtype=np.float32).reshape(len(panel.series), self.size)

    @property
    def size(self) -> int:
        """D."""
        return sum(len(known) if self.is_category(name) else 1 for name, known in self.features.items())

    def _row(self, panel: Panel, number: int) -> list[float]:
        """The D numbers of one series."""
        row: list[float] = []
        for name, known in self.features.items():
            value = panel.static[name][number]
            if self.is_category(name):
                if value not in known:
                    _refuse(panel, name, number, f"one of {', '.join(map(str, known))}")
                row.extend(float(value == category) for category in known)
            else:
                if isinstance(value, str):
                    _refuse(panel, name, number, "numbers")
                loc, scale = known
                row.append((float(value) - float(loc)) / float(scale))
        return row

    def is_category(self, name: str) -> bool:
        """True for a category, False for a number."""
        return isinstance(self.features[name][0], str)

    def to_dict(self) -> dict[str, list[Any]]:
        """JSON-safe."""
        return {name: list(known) for name, known in self.features.items()}

    @classmethod
    def from_dict(cls, raw: Mapping[str, list[Any]]) -> StaticEncoder:
        """The inverse of `to_dict`."""
        return cls({name: tuple(known) for name, known in raw.items()})


def unit(mean: float, spread: float) -> float:
    """What numbers with this mean and standard deviation are divided by: 1 where they do not vary."""
    return spread if spread > _ROUNDING * abs(mean) else 1.0


def embedding_size(series: int) -> int:
    """How many numbers stand for a series: one more than the bits that tell so many apart, at most 16.

    A single series has nothing to be told apart from: 0.
    """
    return 0 if series < 2 else min(_LARGEST_EMBEDDING, 1 + (series - 1).bit_length())


def _fitted(values: tuple[float | str, ...]) -> tuple[float, float] | tuple[str, ...]:
    categories = tuple(sorted({value for value in values if isinstance(value, str)}))
    if categories:
        return categories
    numbers = np.array(values, dtype=np.float64)
    mean, spread = float(numbers.mean()), float(numbers.std())
    return mean, unit(mean, spread)


def _refuse(panel: Panel, name: str, number: int, wanted: str) -> NoReturn:
    raise DataRefused(
        f"{panel.static[name][number]!r}, where the model was trained on {wanted}.",
        data_set=panel.data_set,
        series=panel.series[number] or None,
        column=name,
        remedy="correct the static feature, leave the series out, or retire the champion, so that the next "
        "night learns it.",
    )
