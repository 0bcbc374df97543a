"""What each contender leaves on disk, so that a comparison that was interrupted goes on where it was.

A file is whole or not there, and one that is there is not made again.

Axes: W windows, H horizon steps, Q quantiles.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from data.files import write_atomically
from lstm.comparison.contenders import Contender
from lstm.comparison.cost import Cost
from lstm.comparison.results import Searched
from lstm.evaluation.conformal import Calibration
from lstm.training.recipe import Recipe

CHECKPOINTS = "checkpoints"
"""The folder of unfinished trainings in a comparison's own."""


class Records:
    """The files of one contender.

    Args:
        folder: of the comparison.
    """

    def __init__(self, folder: Path, contender: Contender) -> None:
        self._folder = folder
        self._name = contender.name

    def has_cost(self) -> bool:
        """Whether its cost has been measured."""
        return self._path("cost.json").exists()

    def save_cost(self, cost: Cost) -> None:
        """Keep its cost."""
        self._write("cost.json", asdict(cost))

    def cost(self) -> Cost:
        """Its cost."""
        return Cost(**self._read("cost.json"))

    def has_search(self) -> bool:
        """Whether its search is over."""
        return self._path("search.json").exists()

    def save_search(self, searched: Searched) -> None:
        """Keep what its search found."""
        self._write("search.json", {**vars(searched), "recipe": searched.recipe.to_dict()})

    def searched(self) -> Searched:
        """What its search found."""
        raw = self._read("search.json")
        return Searched(**{**raw, "recipe": Recipe.from_dict(raw["recipe"])})

    def save_calibration(self, calibration: Calibration) -> None:
        """Keep how its quantiles are stretched."""
        self._write("calibration.json", calibration.to_dict())

    def calibration(self) -> Calibration:
        """How its quantiles are stretched."""
        return Calibration.from_dict(self._read("calibration.json"))

    def has_forecast(self, seed: int) -> bool:
        """Whether the training of that seed is done."""
        return self._path(f"seed-{seed}.safetensors").exists()

    def is_done(self, seed: int) -> bool:
        """Whether nothing is left to do up to that seed's training."""
        return self.has_cost() and self.has_search() and self.has_forecast(seed)

    def save_forecast(self, seed: int, z_WHQ: NDArray[np.float32], seconds: float) -> None:
        """Keep the standardised forecasts of a training, and what it took by the clock."""
        data = safetensors.numpy.save({"z_WHQ": np.ascontiguousarray(z_WHQ)}, {"seconds": str(seconds)})
        write_atomically(self._path(f"seed-{seed}.safetensors"), data)

    def training_seconds(self, seed: int) -> float:
        """What the training of a seed took by the clock."""
        with safetensors.safe_open(self._path(f"seed-{seed}.safetensors"), "numpy") as file:
            return float(file.metadata()["seconds"])

    def forecast(self, seed: int) -> NDArray[np.float32]:
        """The standardised forecasts of a training."""
        z_WHQ: NDArray[np.float32] = safetensors.numpy.load_file(self._path(f"seed-{seed}.safetensors"))[
            "z_WHQ"
        ]
        return z_WHQ

    def checkpoint(self, seed: int) -> Path:
        """Where the unfinished training of a seed is kept."""
        return self._folder / CHECKPOINTS / f"{self._name}.seed-{seed}.safetensors"

    @property
    def trial_checkpoints(self) -> Path:
        """The folder in which the unfinished trials of its search are kept."""
        return self._folder / CHECKPOINTS / self._name

    def _path(self, name: str) -> Path:
        return self._folder / f"{self._name}.{name}"

    def _write(self, name: str, value: dict[str, Any]) -> None:
        write_atomically(self._path(name), json.dumps(value, indent=1, allow_nan=False).encode())

    def _read(self, name: str) -> dict[str, Any]:
        raw: dict[str, Any] = json.loads(self._path(name).read_text(encoding="utf-8"))
        return raw
