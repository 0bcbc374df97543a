"""The registry: one registered model per data set, whose aliases follow the ledger.

Aliases: `champion` serves, `previous` is what a rollback brings back, `challenger` is the newest version.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType

import data
import lstm
from data.panel import Panel
from lstm.promotion.identity import Identity
from lstm.promotion.ledger import Ledger
from lstm.tracking import bundle_files
from lstm.tracking.bundle import Bundle
from lstm.tracking.forecast import AS_OF, quantile_columns, rows_of
from lstm.tracking.server import NotFound, TrackingError, answering, connect, fetch, global_store

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
NIGHT_TAG, DIGEST_TAG = "nightcast.night", "nightcast.digest"

# What a served model imports; MLflow brings the rest.
_REQUIREMENTS = (
    "mlflow",
    "numpy",
    "pandas",
    "pandera",
    "polars",
    "psutil",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "sqlalchemy",
    "torch",
    "tzdata",
)


class Registry:
    """Model versions of a store, and their aliases.

    Args:
        tracking_uri: the MLflow store; the registry is in it.

    Raises:
        TrackingUnreachable: it does not answer. So does every method.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.uri = tracking_uri
        self._client = connect(tracking_uri)

    def register(
        self,
        bundle: Bundle,
        identity: Identity,
        run_id: str,
        example: Panel,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Make the bundle a model version and the challenger. Registering it again returns that version.

        Args:
            identity: the night; with the bundle's digest it makes the version unique.
            run_id: the night's run.
            example: the panel whose newest rows become the input example.
            tags: further tags of the version.
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            digest = bundle_files.save(bundle, folder / "bundle")
            known = self._versions(identity)
            same = [version for version in known if version.tags[DIGEST_TAG] == digest]
            if same:
                version = str(same[0].version)
                # Killed in between, it may lack its alias.
                self.set_alias(identity.data_set, CHALLENGER, version)
                return version
            save_model(bundle, digest, folder / "bundle", example, folder / "model")
            return self._create(folder / "model", identity, run_id, {**(tags or {}), DIGEST_TAG: digest})

    def load(self, data_set: str, version: str) -> Bundle:
        """A version's bundle, checked against the digest in the version's tag.

        Raises:
            NotFound: there is no such version, or its files are gone.
            BundleError: its files are not those that were registered.
        """
        with answering(self.uri), tempfile.TemporaryDirectory() as temporary:
            digest = self._client.get_model_version(data_set, version).tags.get(DIGEST_TAG)
            if digest is None:
                raise TrackingError(
                    f"{data_set} version {version}: no tag {DIGEST_TAG}, so Nightcast did not make it. "
                    "Remedy: set the alias `champion` to a version that was."
                )
            source = self._client.get_model_version_download_uri(data_set, version)
            path = fetch(self.uri, f"{source}/artifacts/bundle", Path(temporary))
            return bundle_files.load(path, digest)

    def aliases(self, data_set: str) -> dict[str, str]:
        """Version by alias; empty where nothing was registered yet."""
        try:
            with answering(self.uri):
                found = self._client.get_registered_model(data_set).aliases
        except NotFound:
            return {}
        return {alias: str(version) for alias, version in found.items()}

    def set_alias(self, data_set: str, alias: str, version: str | None) -> None:
        """Point an alias at a version, or remove it.

        Raises:
            NotFound: there is no such version.
        """
        with answering(self.uri):
            if version is None:
                self._client.delete_registered_model_alias(data_set, alias)
            else:
                self._client.set_registered_model_alias(data_set, alias, version)

    def sync(self, data_set: str, ledger: Ledger) -> tuple[str, ...]:
        """Let the aliases follow the ledger; a champion alias that a person moved is adopted instead.

        The ledger knows where it put the alias last. An alias that stands there, or nowhere, only lags
        behind; one that stands elsewhere was moved by hand, which counts as a decision.

        Returns:
            What was done, as sentences; empty where all agreed.

        Raises:
            NotFound: the registry lost the champion's version.
            ChampionChanged: a night promoted in the meantime; call again.
        """
        # In this order: a night that promotes and moves the alias in between leaves `found` at `noted`.
        noted = ledger.alias(data_set)
        found = self.aliases(data_set)
        champion = ledger.champion(data_set)
        wanted = None if champion is None else champion.version
        moved = found.get(CHAMPION)
        done = []
        if moved is not None and moved not in (wanted, noted):
            reason = f"The alias `champion` was moved by hand from {wanted or 'none'} to {moved}."
            ledger.adopt(data_set, moved, wanted, reason)
            done.append(reason)
            champion = ledger.champion(data_set)
        targets = {
            CHAMPION: None if champion is None else champion.version,
            PREVIOUS: None if champion is None else champion.previous,
        }
        for alias, version in targets.items():
            if found.get(alias) != version:
                self.set_alias(data_set, alias, version)
                done.append(f"The alias `{alias}` was set to {version or 'none'}, as the ledger says.")
        # Where all agreed nothing is noted: a night may have promoted since, and noted its own.
        if not targets[CHAMPION] == noted == found.get(CHAMPION):
            ledger.save_alias(data_set, targets[CHAMPION])
        return tuple(done)

    def _versions(self, identity: Identity) -> list[ModelVersion]:
        """A night's versions, the newest first."""
        wanted = f"name='{identity.data_set}' and tags.`{NIGHT_TAG}`='{identity.key}'"
        with answering(self.uri):
            versions = list(self._client.search_model_versions(wanted))
        return sorted(versions, key=lambda version: -int(version.version))

    def _create(self, model: Path, identity: Identity, run_id: str, tags: Mapping[str, str]) -> str:
        tags = {**tags, NIGHT_TAG: identity.key}
        name = identity.data_set
        # A database store looks the logged model up in the global store, not in its own.
        with answering(self.uri), global_store(self.uri):
            run = self._client.get_run(run_id)
            logged = self._client.create_logged_model(
                run.info.experiment_id, name=name, source_run_id=run_id, tags=tags, model_type="forecaster"
            )
            self._client.log_model_artifacts(logged.model_id, str(model))
            self._client.finalize_logged_model(logged.model_id, "READY")
            if not self._client.search_registered_models(f"name='{name}'"):
                self._client.create_registered_model(name, description=f"Forecasts of {name}, by Nightcast")
            created = self._client.create_model_version(
                name, f"models:/{logged.model_id}", run_id, tags=tags, model_id=logged.model_id
            )
            version = str(created.version)
            self._client.set_registered_model_alias(name, CHALLENGER, version)
        return version


def save_model(bundle: Bundle, digest: str, files: Path, example: Panel, folder: Path) -> None:
    """Write the bundle as an MLflow model with the code that it needs: it serves where this is not installed.

    Args:
        files: the folder that holds the saved bundle.
        example: the panel whose newest rows become the input example.
        folder: made here.
    """
    with tempfile.TemporaryDirectory() as temporary:
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={"bundle": str(files)},
            model_config={"digest": digest},
            code_paths=[str(path) for path in _code(Path(temporary))],
            pip_requirements=[f"{name}=={installed(name).split('+')[0]}" for name in _requirements(bundle)],
            signature=signature(bundle),
            input_example=_example(bundle, example),
        )


def _requirements(bundle: Bundle) -> tuple[str, ...]:
    return (*_REQUIREMENTS, "holidays") if bundle.layout.holidays else _REQUIREMENTS


def signature(bundle: Bundle) -> ModelSignature:
    """Columns in and out, and where the past ends. A time may be text or a datetime."""
    layout = bundle.layout
    keys = {layout.time: AnyType(), **({layout.series: DataType.string} if layout.series else {})}  # type: ignore[no-untyped-call]
    inputs = keys | dict.fromkeys(layout.values, DataType.double)
    encoder = bundle.judged.scaler.static
    inputs |= {
        name: DataType.string if encoder.is_category(name) else DataType.double for name in layout.static
    }
    outputs = dict.fromkeys(("series", "time"), DataType.string)
    outputs |= dict.fromkeys(quantile_columns(bundle.quantiles), DataType.double)
    params = ParamSchema([ParamSpec(AS_OF, DataType.string, "")])
    return ModelSignature(_schema(inputs), _schema(outputs), params)


def _schema(columns: Mapping[str, Any]) -> Schema:
    return Schema([ColSpec(kind, name) for name, kind in columns.items()])


def _example(bundle: Bundle, panel: Panel) -> pd.DataFrame:
    """The newest rows that a forecast of the first series reads."""
    rows = rows_of(panel, bundle.layout, bundle.history)
    if bundle.layout.series:
        rows = rows[rows[bundle.layout.series] == panel.series[0]]
    # MLflow compares column names in a way that pandas deprecates for its own text type.
    return rows.set_axis(pd.Index(list(rows.columns), dtype=object), axis=1)


def _code(folder: Path) -> list[Path]:
    """Copies of the packages that a served model imports, without the sample data and the C sources."""
    leave = shutil.ignore_patterns("__pycache__", "samples", "cpu")
    packages = [Path(str(package.__file__)).parent for package in (data, lstm)]
    return [Path(shutil.copytree(path, folder / path.name, ignore=leave)) for path in packages]
