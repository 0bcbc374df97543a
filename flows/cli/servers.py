"""`nightcast up`, `deploy`, `doctor`: the servers, the deployments, and whether all is well."""

from __future__ import annotations

import errno
import os
import platform
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from data.errors import NightcastError
from flows.cli.output import AsJson, console, emit, prepare, stderr, table

if TYPE_CHECKING:
    from lstm.settings import Settings


def up(
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the MLflow server.")] = 5000,
) -> None:
    """Servers, deployments and workers on this machine, until Ctrl-C.

    Example: nightcast up
    """
    if prefect_port == mlflow_port:
        raise typer.BadParameter("each server needs a port of its own", param_hint="--mlflow-port")
    settings = prepare()
    from data.catalog import load_catalog
    from flows.stack import Addresses, stack

    load_catalog(settings.catalog)

    addresses = Addresses(prefect_port, mlflow_port)
    for number in (signal.SIGTERM, signal.SIGHUP):
        # What `nohup` has switched off stays off.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        with stack(settings, addresses, lambda text: stderr.print(text, highlight=False)) as running:
            console.print(f"Prefect  {addresses.prefect}", highlight=False)
            console.print(f"MLflow   {addresses.mlflow}", highlight=False)
            console.print("\nIn another shell:", highlight=False)
            for name, value in addresses.exports(settings).items():
                line = f"export {name}={shlex.quote(value)}"
                console.print(line, highlight=False, markup=False, soft_wrap=True)
            console.print("prefect deployment run retrain/nightly", highlight=False)
            console.print("\nCtrl-C ends all.", highlight=False)
            while True:
                running.check()
                time.sleep(1)
    except KeyboardInterrupt:
        stderr.print("Ended.", highlight=False)


def deploy(
    search_pool: Annotated[
        str | None, typer.Option(help="A further work pool whose workers search, as in `retrain --pool`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Apply prefect.yaml and the catalog's schedules to PREFECT_API_URL.

    Example: nightcast deploy --search-pool gpu
    """
    settings = prepare()
    from data.catalog import load_catalog
    from flows.deploy import deploy as apply

    names = apply(load_catalog(settings.catalog), search_pool)
    if as_json:
        emit({"deployments": names})
        return
    for name in names:
        console.print(f"[green]✓[/] {name}", highlight=False)


def doctor(as_json: AsJson = False) -> None:
    """Is this machine fit for a night? Device, disk, every store.

    Example: nightcast doctor
    """
    # A night waits minutes for a server to come back; a person who asks wants to know now.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "1")
    settings = prepare()
    checks = {
        "python": platform.python_version,
        "catalog": lambda: _catalog(settings.catalog),
        "home": lambda: _home(settings.root),
        "device": lambda: _device(settings.device),
        "kernel": _kernel,
        "ledger": lambda: _ledger(settings.ledger_url),
        "mlflow": lambda: _mlflow(settings),
        "prefect": _prefect,
    }
    results = {name: _attempt(check) for name, check in checks.items()}
    failed = [name for name, (ok, _) in results.items() if not ok]
    if as_json:
        texts = {name: text for name, (_, text) in results.items()}
        emit({"healthy": not failed, "failed": failed, **texts})
    else:
        rows = table("", "what", "")
        for name, (ok, text) in results.items():
            rows.add_row("[green]✓[/]" if ok else "[red]✗[/]", name, escape(text))
        console.print(rows)
    if failed:
        raise typer.Exit(1)


def _attempt(check: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, check()
    except NightcastError as error:
        return False, str(error)
    except OSError as error:
        if error.filename is None:
            raise
        return False, f"{error.filename}: {error.strerror}. Remedy: check NIGHTCAST_HOME"


def _catalog(path: Path) -> str:
    from data.catalog import load_catalog

    count = len(load_catalog(path).data_sets)
    return f"{count} data set{'' if count == 1 else 's'}, {path}"


def _home(folder: Path) -> str:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    return f"{folder}, {shutil.disk_usage(there).free / 1e9:.0f} GB free"


def _device(wanted: Literal["auto", "cpu", "cuda"]) -> str:
    from lstm.training.device import choose_device

    return str(choose_device(wanted))


def _kernel() -> str:
    from lstm.kernels import describe

    return describe()


def _ledger(url: str) -> str:
    from lstm.promotion.ledger import Ledger

    decisions = Ledger(url).decisions(limit=1)
    return f"newest decision {decisions[0].decided_at[:16]}" if decisions else "no decision yet"


def _mlflow(settings: Settings) -> str:
    from lstm.tracking.runs import Tracker

    Tracker(settings.mlflow_uri, settings.artifacts)
    return settings.shown_mlflow_uri


def _prefect() -> str:
    from flows.deploy import answering_server

    return answering_server() or "no server: every night brings its own"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
