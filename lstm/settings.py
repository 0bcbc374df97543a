"""Every machine setting, typed, from the environment: where things are kept and what they run on.

What belongs to a data set (horizon, budget, margins) is in the catalog, not here.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from data.catalog import SHIPPED
from data.errors import SettingsError

PREFIX = "NIGHTCAST_"

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}

BRIEF_WAIT = {"GOMP_SPINCOUNT": "6000"}
"""How often a thread of torch's looks for work before it sleeps: for some 0.1 to 0.3 ms.

GNU's OpenMP has them look 300,000 times unless told otherwise. On cores that another program uses as well,
each operation then waits for threads that keep others from running, for many times its own length.
"""


class Settings(BaseSettings):
    """Settings of this machine, each from ``NIGHTCAST_<NAME>``.

    Attributes:
        home: SQLite databases, artifacts, snapshots, checkpoints and forecasts; one folder to back up.
        catalog: the catalog file.
        tracking_uri: the MLflow server; unset means a SQLite database in `home`.
        database_url: PostgreSQL for studies and ledger; unset means SQLite databases in `home`.
        device: what trains: ``auto`` takes CUDA where there is one.
        workers: local search processes; unset means one a core, at most four.
        lanes: trials that a search worker trains at a time, as one launch; for GPUs.
        kernel: what computes LSTMs on a CPU: ``native``, ``torch``, or by shape (`lstm.kernels.dispatch`,
            which reads the variable itself).
        precision: what recurrent layers multiply in while they train on a CPU: ``auto``, bfloat16 where it
            has instructions for it; or ``float32``. Read as the kernel is.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, hide_input_in_errors=True)

    home: Path = Path(".nightcast")
    catalog: Path = SHIPPED
    tracking_uri: str | None = Field(
        None, validation_alias=AliasChoices("NIGHTCAST_TRACKING_URI", "MLFLOW_TRACKING_URI")
    )
    database_url: SecretStr | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int | None = Field(None, ge=1)
    lanes: int = Field(1, ge=1)
    kernel: Literal["auto", "native", "torch"] = "auto"
    precision: Literal["auto", "float32"] = "auto"

    @property
    def root(self) -> Path:
        """`home` as an absolute path."""
        return self.home.expanduser().resolve()

    @property
    def mlflow_uri(self) -> str:
        """The MLflow store that this machine writes to."""
        return self.tracking_uri or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def shown_mlflow_uri(self) -> str:
        """The same for people to read: without a password."""
        return hide_password(self.mlflow_uri)

    @property
    def artifacts(self) -> Path:
        """Root of the artifacts of experiments made without a server."""
        return self.root / "artifacts"

    @property
    def study_url(self) -> str:
        """The Optuna storage."""
        return self._database("optuna")

    @property
    def ledger_url(self) -> str:
        """The ledger's database."""
        return self._database("ledger")

    @property
    def snapshots(self) -> Path:
        """Folder of prepared data, one file a digest."""
        return self.root / "snapshots"

    @property
    def checkpoints(self) -> Path:
        """Folder of unfinished trainings."""
        return self.root / "checkpoints"

    @property
    def forecasts(self) -> Path:
        """Folder of stored forecasts."""
        return self.root / "forecasts"

    @property
    def local_workers(self) -> int:
        """Local search processes, each with one torch thread."""
        return self.workers or min(4, os.cpu_count() or 1)

    @property
    def is_shared(self) -> bool:
        """True where another machine can reach what this one writes: both URLs are servers'."""
        return self.database_url is not None and self.mlflow_uri.startswith(("http://", "https://"))

    def _database(self, name: str) -> str:
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.root / f'{name}.db'}"


def load_settings() -> Settings:
    """The settings of the environment.

    Raises:
        SettingsError: a value is wrong, or a variable with the prefix is no setting. No value is shown: one
            may hold a password.
    """
    known = sorted(name.upper() for name in Settings.model_fields)
    for name in (variable.removeprefix(PREFIX) for variable in os.environ if variable.startswith(PREFIX)):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            listed = ", ".join(PREFIX + one for one in known)
            remedy = f"did you mean {PREFIX}{near[0]}?" if near else f"the settings are {listed}"
            raise SettingsError(f"{PREFIX}{name}: unknown setting; {remedy}")
    try:
        return Settings()
    except ValidationError as error:
        wrong = [f"{_variable(str(e['loc'][0]))}: {e['msg']}" for e in error.errors(include_input=False)]
        raise SettingsError("\n".join(wrong)) from error


def hide_password(url: str, text: str | None = None) -> str:
    """A text, the URL itself where none is given, without the password that the URL holds."""
    text = url if text is None else text
    password = urlsplit(url).password
    return text.replace(f":{password}@", ":***@") if password else text


def _variable(field: str) -> str:
    """The environment variable of a field, which pydantic names by its alias where it has one."""
    return PREFIX + field.upper().removeprefix(PREFIX)


def prepare_environment() -> None:
    """Telemetry of Prefect and MLflow off, and torch's threads soon asleep, unless the environment says
    otherwise.

    Call before any of them is imported.
    """
    wanted = TELEMETRY_OFF if "OMP_WAIT_POLICY" in os.environ else {**TELEMETRY_OFF, **BRIEF_WAIT}
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
