"""Talking to MLflow: a client that is quiet, and errors that tell "not there" from "does not answer"."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from urllib.parse import urlsplit

import mlflow.artifacts
import requests
import sqlalchemy as sa
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from data.errors import NightcastError
from lstm.settings import hide_password

with warnings.catch_warnings():
    # MLflow warns about its own type hints while it is imported; nobody else can change them.
    warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType", category=UserWarning)
    import mlflow.pyfunc

_MISSING = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


class TrackingError(NightcastError):
    """MLflow cannot do what was asked."""


class NotFound(TrackingError):
    """MLflow answered: there is no such run, artifact or version."""


class TrackingUnreachable(TrackingError):
    """MLflow does not answer, which says nothing about what it holds."""


def connect(tracking_uri: str) -> MlflowClient:
    """A client of a store. A fresh database gets its tables here, from one process at a time.

    Raises:
        TrackingUnreachable: the store does not answer.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in ("mlflow.store.db.utils", "mlflow.pyfunc", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with _alone(tracking_uri), answering(tracking_uri):
        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        client.search_experiments(max_results=1)
    return client


@contextmanager
def answering(tracking_uri: str) -> Iterator[None]:
    """Turn MLflow's errors into ours.

    Raises:
        NotFound: what was asked for does not exist.
        TrackingError: it answered with another error.
        TrackingUnreachable: it did not answer.
    """
    try:
        yield
    except MlflowException as error:
        # Both clients wrap a failed connection: HTTP in a plain error, a database in a temporary one.
        away = isinstance(
            error.__cause__ or error.__context__, (requests.RequestException, sa.exc.DBAPIError)
        )
        cause = _cause(tracking_uri, error)
        if error.error_code in _MISSING:
            raise NotFound(hide_password(tracking_uri, f"{tracking_uri}: {error.message}")) from cause
        if away or error.error_code == "TEMPORARILY_UNAVAILABLE":
            raise _unreachable(tracking_uri, error) from cause
        raise TrackingError(hide_password(tracking_uri, f"{tracking_uri}: {error.message}")) from cause
    except (requests.RequestException, sa.exc.DBAPIError) as error:
        raise _unreachable(tracking_uri, error) from _cause(tracking_uri, error)


@contextmanager
def global_store(tracking_uri: str) -> Iterator[None]:
    """MLflow's global store inside the block, and what it was afterwards.

    MLflow keeps it in the environment too, where the settings would take it for a person's choice.
    """
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def fetch(tracking_uri: str, artifact_uri: str, folder: Path) -> Path:
    """Download an artifact, a file or a folder, into a folder. Returns its path there.

    Raises:
        NotFound: there is no such artifact.
        TrackingError, TrackingUnreachable: as of `answering`.
    """
    parent, _, name = artifact_uri.rpartition("/")
    with answering(tracking_uri):
        # A failed download does not say whether the artifact is missing or its server is away; a list does.
        held = mlflow.artifacts.list_artifacts(artifact_uri=parent, tracking_uri=tracking_uri)
        if name not in [artifact.path.rpartition("/")[2] for artifact in held]:
            raise NotFound(hide_password(tracking_uri, f"{tracking_uri}: no artifact {name} in {parent}"))
        return Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=artifact_uri, dst_path=str(folder), tracking_uri=tracking_uri
            )
        )


def _alone(tracking_uri: str) -> AbstractContextManager[object]:
    """A lock beside a SQLite database: two processes that make its tables at once break it."""
    path = sa.make_url(tracking_uri).database if tracking_uri.startswith("sqlite") else None
    return FileLock(f"{path}.lock") if path else nullcontext()


def _unreachable(tracking_uri: str, error: Exception) -> TrackingUnreachable:
    text = f"MLflow at {tracking_uri} does not answer: {error}. Remedy: check that it runs, and its URI."
    return TrackingUnreachable(hide_password(tracking_uri, text))


def _cause(tracking_uri: str, error: Exception) -> Exception | None:
    """The error to chain: none where its own text would show the password."""
    return None if urlsplit(tracking_uri).password else error
