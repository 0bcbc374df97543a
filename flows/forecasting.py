"""The champion's forecast from the newest data: made, stored as of now, drawn, and as a serving request."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.catalog import DataSet, load_catalog
from data.contract import check, resolve_as_of
from data.errors import DataRefused, NightcastError
from data.files import replacing, write_atomically
from data.panel import Panel
from lstm.promotion.ledger import Ledger
from lstm.settings import Settings
from lstm.tracking.bundle import Bundle
from lstm.tracking.forecast import Forecast, rows_of
from lstm.tracking.registry import Registry
from lstm.tracking.report import newest_forecast


class NoChampion(NightcastError):
    """There is no champion that could forecast."""


@dataclass(frozen=True)
class Made:
    """A forecast with what it was made from.

    Attributes:
        forecast: the champion's, from the panel's newest rows.
        panel: the champion's series and columns.
        path: where the forecast is stored.
    """

    forecast: Forecast
    bundle: Bundle
    panel: Panel
    path: Path

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            "data_set": self.forecast.data_set,
            "version": self.forecast.version,
            "as_of": self.forecast.as_of,
            "stored": str(self.path),
            "forecast": self.forecast.to_frame().to_dict(orient="records"),
        }


def make_forecast(settings: Settings, name: str) -> Made:
    """Read the newest data, forecast with the champion, and store the forecast.

    Raises:
        NoChampion: no night has promoted one yet.
        DataRefused: the newest data breaks the contract.
        BundleError, RegistryError: the champion cannot be loaded.
    """
    data_set = load_catalog(settings.catalog).get(name)
    ledger, registry = Ledger(settings.ledger_url), Registry(settings.mlflow_uri)
    registry.sync(name, ledger)
    panel = check(data_set, resolve_as_of(data_set)).panel
    return forecast_panel(settings, data_set, ledger, registry, panel)


def forecast_panel(
    settings: Settings, data_set: DataSet, ledger: Ledger, registry: Registry, panel: Panel
) -> Made:
    """The champion's forecast after the panel's last step, stored.

    Series that the champion was not trained on are left out until a night promotes one that was.

    Raises:
        NoChampion, DataRefused, BundleError, RegistryError: as of `make_forecast`.
    """
    version, bundle = load_champion(settings, data_set, ledger, registry)
    panel = known_series(bundle, version, panel)
    forecast = bundle.forecast(panel, version)
    return Made(forecast, bundle, panel, store(settings.forecasts, forecast))


def load_champion(
    settings: Settings, data_set: DataSet, ledger: Ledger, registry: Registry
) -> tuple[str, Bundle]:
    """The champion's version and bundle.

    Raises:
        NoChampion: no night has promoted one yet.
        DataRefused: it was made for other columns, steps or levels than the catalog declares now.
        BundleError, RegistryError: it cannot be loaded.
    """
    champion = ledger.champion(data_set.name)
    if champion is None:
        raise NoChampion(
            f"{data_set.name}: there is no champion yet in {settings.root}. "
            f"Remedy: nightcast retrain {data_set.name}"
        )
    bundle = registry.load(data_set.name, champion.version)
    bundle.check(data_set)
    return champion.version, bundle


def known_series(bundle: Bundle, version: str, panel: Panel) -> Panel:
    """The panel of the series that a version was trained on.

    Raises:
        DataRefused: there is none.
    """
    known = [name for name in panel.series if name in bundle.twin(bundle.serves).scaler.series]
    if not known:
        raise DataRefused(
            f"version {version} was trained on none of today's series.",
            data_set=panel.data_set,
            remedy=f"nightcast retrain {panel.data_set}",
        )
    return panel.select(known)


def store(folder: Path, forecast: Forecast) -> Path:
    """Write a forecast as Parquet, one file a data set, as-of and version; done again it writes the same."""
    path = path_of(folder, forecast.data_set, forecast.as_of, forecast.version)
    frame = forecast.to_frame()
    frame["version"], frame["as_of"] = forecast.version, forecast.as_of
    with replacing(path) as temporary:
        frame.to_parquet(temporary, index=False)
    return path


def path_of(folder: Path, data_set: str, as_of: str, version: str | None) -> Path:
    """Where a forecast is stored."""
    return folder / data_set / f"{as_of.replace('-', '').replace(':', '')}.v{version}.parquet"


def write_picture(made: Made, path: Path) -> Path:
    """Draw the forecast after its newest rows, as a PNG."""
    write_atomically(path, newest_forecast(made.panel, made.forecast))
    return path


def write_request(made: Made, path: Path) -> Path:
    """Write the body that ``POST /invocations`` of `mlflow models serve` takes for this forecast.

    Every number keeps all its digits, so that the answer is this forecast to the last one.
    """
    rows = rows_of(made.panel, made.bundle.layout, made.bundle.history)
    cells = rows.astype(object).where(rows.notna(), None).to_numpy().tolist()
    body = {"dataframe_split": {"columns": list(rows.columns), "data": cells}}
    write_atomically(path, json.dumps(body, allow_nan=False).encode())
    return path
