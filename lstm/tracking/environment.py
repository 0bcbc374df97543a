"""What ran a night: versions, platform, and the commit of the code."""

from __future__ import annotations

import platform
from importlib.metadata import version as installed
from pathlib import Path

from mlflow.utils.git_utils import get_git_commit

import lstm

_PACKAGES = ("nightcast", "torch", "optuna", "mlflow", "prefect", "polars", "numpy")


def environment() -> dict[str, str]:
    """Tags that say what ran: versions of what matters, the platform, and the commit in a checkout."""
    tags = {f"nightcast.version.{name}": installed(name) for name in _PACKAGES}
    tags |= {"nightcast.python": platform.python_version(), "nightcast.platform": platform.platform()}
    root = Path(str(lstm.__file__)).parents[1]
    # Installed inside somebody's own checkout, that commit would say nothing about this code.
    commit = get_git_commit(str(root)) if (root / ".git").exists() else None
    return tags | ({"mlflow.source.git.commit": commit} if commit else {})
