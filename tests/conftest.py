"""What every test shares: fixed seeds, a factory of tiny panels, and which tests run in one process."""

from __future__ import annotations

import gc
import os
import random
import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from data.calendar import Frequency
from data.panel import Panel
from flows.imports import importing

if TYPE_CHECKING:
    from servers import Up
    from shells import Shell

    from lstm.search.objective import SearchTask

# How long an example takes says how loaded the machine is; and what passed once passes again.
settings.register_profile(
    "nightcast", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("nightcast")

STACK = (
    "test_deploy.py",
    "test_mlproject.py",
    "test_postgres_night.py",
    "test_tracking_server.py",
    "test_servers.py",
    "test_stack.py",
)
"""Files whose tests share one `nightcast up`."""

DATABASES = (
    "test_champion.py",
    "test_lease.py",
    "test_ledger.py",
    "test_study_databases.py",
)
"""Files whose tests share one PostgreSQL server."""

SHELL = ("test_cli_night.py", "test_cli_answers.py")
"""Files whose tests share one home of the command line."""

GROUPS = {file: files[0] for files in (STACK, DATABASES, SHELL) for file in files}
"""The first file of those that stay together, by each of them."""

LONGEST = (
    *STACK,
    "test_compare.py",
    "test_signals.py",
    "test_the_tutorial_runs",
    *SHELL,
    "test_night.py",
    "test_covariates_night.py",
    "test_accuracy.py",
    "test_campaign.py",
    *DATABASES,
    "test_search_trials.py",
    "test_search_interruptions.py",
    "test_objective.py",
    "test_study.py",
    "test_places.py",
    "test_search_lanes.py",
    "test_kernel_sanitizers.py",
    "test_search_workers.py",
)
"""Files and tests that take the longest, in the order in which they start: short ones even out the ends."""


class Groups(LoadScopeScheduling):
    """Where several processes share the tests, a group runs in one of them, in order, on its own fixtures."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Called once in each process, which imports everything now, and has no garbage among it later."""
    with importing():
        found = yield
    gc.set_threshold(20_000, 20, 20)
    return found


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Groups:
    """Called once, in the process that hands out the tests."""
    config.option.loadscopereorder = False
    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest groups first."""
    items.sort(key=lambda item: min(map(_place, (item.path.name, item.name))))


def _group(nodeid: str) -> str:
    """The group of a test: its file or that file's, unless it is long enough to be one by itself."""
    path, _, name = nodeid.partition("::")
    file = path.rpartition("/")[2]
    return name if name in LONGEST else GROUPS.get(file, file)


def _place(name: str) -> int:
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


@pytest.fixture(scope="module")
def in_float32() -> Iterator[None]:
    """No mixed precision on a CPU: lanes know none there, so that only then one equals its solo run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIGHTCAST_PRECISION", "float32")
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Commands that run in this process set variables for the tools below them, as MLflow does for itself."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """What a night, a search or a benchmark in this process chose for itself is not for the next test."""
    torch = sys.modules.get("torch")
    count = torch.get_num_threads() if torch else None
    yield
    if native := sys.modules.get("lstm.kernels.native"):
        native.set_threads(None)
    if torch and torch.get_num_threads() != count:
        torch.set_num_threads(count)


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
def _postgres() -> Iterator[str]:
    from postgres_server import binaries, postgres

    if binaries() is None:
        pytest.skip("no PostgreSQL server binaries")
    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a database that does not exist or is empty."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/fresh.db"
    from postgres_server import create_database

    return create_database(request.getfixturevalue("_postgres"))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study database on SQLite, to copy: preparing one takes half a second."""
    from lstm.search.storage import prepare

    path = tmp_path_factory.mktemp("template") / "study.db"
    prepare(f"sqlite:///{path}")
    return path


@pytest.fixture
def lite(tmp_path: Path, template: Path) -> str:
    """The URL of a study database on SQLite that is prepared."""
    shutil.copy(template, tmp_path / "study.db")
    return f"sqlite:///{tmp_path}/study.db"


@pytest.fixture
def make_task(make_panel: Callable[..., Panel], lite: str, tmp_path: Path) -> Callable[..., SearchTask]:
    """``make_task(trials=..., space=..., ...)``: a search of a made panel, as `tasks.make_task` says."""
    from tasks import make_task

    return partial(make_task, make_panel, lite, tmp_path)


@pytest.fixture(scope="session")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose databases have their tables, to be moved into; one for all processes."""
    from stores import make_lived_in

    folder = tmp_path_factory.getbasetemp()
    return make_lived_in(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory, lived_in: Path) -> Shell:
    """The command line in a home of its own, one for all tests."""
    from shells import Shell

    return Shell(tmp_path_factory.mktemp("shell"), lived_in)


@pytest.fixture(scope="session")
def _stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    from servers import Up

    stack = Up(tmp_path_factory.mktemp("up"))
    try:
        # Nights that a test will ask for begin at once, so that what comes before it runs beside them.
        if any("nights" in getattr(item, "fixturenames", ()) for item in request.session.items):
            stack.begin_nights()
        yield stack
    finally:
        stack.end()


@pytest.fixture(scope="module")
def up(_stack: Up) -> Up:
    """A running `nightcast up`, one for all tests; started again where a test has ended it."""
    _stack.ensure()
    return _stack
