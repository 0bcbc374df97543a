"""The model as MLflow serves it: a bundle behind `predict`. MLflow runs this file where it loads a model.

Input: the newest rows under the source's own column names (time, series where there is one, target,
covariates, static features), at least a lookback; with `Bundle.history` of them the intervals learn from the
forecasts before, as those of `nightcast forecast` do. Where it has future covariates, the rows of
the horizon follow, with an empty target; where the newest step's target is missing too, the parameter `as_of`
(ISO) says at which step the past ends. Output: `series`, `time` (ISO, local with offset) and one
column for each quantile, `q0.5` the point forecast. The same numbers as `Bundle.forecast`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from lstm.tracking.bundle_files import load
from lstm.tracking.forecast import AS_OF, panel_of


class ForecastModel(PythonModel):
    """Forecasts the horizon after the newest row."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the bundle, once."""
        self.bundle = load(Path(context.artifacts["bundle"]), context.model_config["digest"])

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """The forecast of every series in the input.

        Args:
            params: `as_of` as `lstm.tracking.forecast.panel_of` takes it; empty where it is not told.

        Raises:
            DataRefused: columns, times or values that the contract refuses, or too few rows.
        """
        as_of = (params or {}).get(AS_OF) or None
        panel = panel_of(model_input, self.bundle.layout, self.bundle.frequency, as_of)
        return self.bundle.forecast(panel).to_frame()


mlflow.models.set_model(ForecastModel())
