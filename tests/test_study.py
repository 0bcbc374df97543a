"""The study: budget, places, cleaning and racing, on real SQLite files and a real PostgreSQL server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import psutil
import pytest
import sqlalchemy
from forked import PIPE, Fork
from optuna.trial import TrialState
from servers import free_ports

from data.processes import Process, this_process
from data.retrain import Budget
from lstm.evaluation.conformal import Calibration
from lstm.models.forecaster import ForecasterConfig
from lstm.search import places, study
from lstm.search.sampler import Sampler, pruner
from lstm.search.storage import SearchFailed, opened, prepare, shown
from lstm.training.recipe import Recipe, TrainingConfig

# Optuna's advice to those who want heartbeats; `work` follows it, tests take trials by hand.
pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")

NAME = "night"
RECIPE = Recipe(ForecasterConfig("lstm", 4, 1, 0.0, 1, 8, 2, (0.5,), 1, 2), TrainingConfig(), 3)


def _binaries():
    return next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), shutil.which("initdb"))


@contextmanager
def _postgres_server():
    """A PostgreSQL server of its own; run as user postgres by root, whom it refuses."""
    binaries = Path(_binaries()).parent
    user = "postgres" if os.geteuid() == 0 else None
    home = Path(tempfile.mkdtemp(prefix="nightcast-postgres-"))
    if user:
        shutil.chown(home, user)
    (port,) = free_ports(1)
    folder = home / "data"
    initdb = [binaries / "initdb", "-D", folder, "-U", "nightcast", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(initdb, user=user, check=True, capture_output=True, cwd=home)
    server = subprocess.Popen(
        [binaries / "postgres", "-D", folder, "-p", str(port), "-k", home, "-c", "fsync=off"],
        user=user, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        ready = [binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-t", "20", "-q"]
        for _ in range(100):
            if subprocess.run(ready, check=False, cwd=home).returncode == 0:
                break
            time.sleep(0.1)
        yield f"postgresql+psycopg://nightcast:secret@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # fast: does not wait for clients
        server.wait(20)
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def postgres():
    if not _binaries():
        pytest.skip("no PostgreSQL server binaries")
    with _postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A prepared SQLite file to copy: preparing one takes half a second."""
    path = tmp_path_factory.mktemp("template") / "study.db"
    prepare(f"sqlite:///{path}")
    return path


@pytest.fixture
def lite(tmp_path, template):
    """A prepared SQLite database."""
    shutil.copy(template, tmp_path / "study.db")
    return f"sqlite:///{tmp_path}/study.db"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request, tmp_path):
    """A database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/fresh.db"
        return
    base = request.getfixturevalue("postgres")
    name = f"test_{time.monotonic_ns()}"
    engine = sqlalchemy.create_engine(base, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    yield base.removesuffix("postgres") + name


def dead_process():
    """A process of this host that has just ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = Process(this_process().host, child.pid, round(psutil.Process(child.pid).create_time(), 2))
    child.communicate(b"\n")
    return process


def run(
    url,
    count,
    objective=lambda trial: trial.suggest_float("x", 0, 1),
    budget=None,
    normalisation=lambda number: RECIPE.model.normalisation,
):
    """Run trials as a worker does, with a plain objective."""
    with study.loaded(url, NAME) as own:
        own.sampler = Sampler(own.user_attrs["seed"], budget or study.budget_of(own))

        def noted(trial):
            value = objective(trial)
            recipe = replace(RECIPE, model=replace(RECIPE.model, normalisation=normalisation(trial.number)))
            trial.set_user_attr(places.RECIPE, recipe.to_dict())
            trial.set_user_attr(places.LOSSES, [value - 0.01, value + 0.01])
            trial.set_user_attr(places.CALIBRATION, Calibration(np.full((1, 3), value), 0.0, 1).to_dict())
            trial.set_user_attr(places.END, {"time": time.time(), "reason": ""})
            return value

        own.optimize(noted, n_trials=count, catch=(RuntimeError,))


def take(own, **attributes):
    """A trial that is running, with user attributes."""
    own.sampler = Sampler(0, Budget())
    trial = own.ask()
    trial.suggest_float("x", 0, 1)
    for key, value in attributes.items():
        trial.set_user_attr(key, value)
    return trial


def boom(trial):
    trial.set_user_attr(places.END, {"time": time.time(), "reason": "RuntimeError: boom"})
    raise RuntimeError("boom")


def test_a_new_study_has_spent_nothing(url):
    study.create(url, NAME, Budget(trials=3, minutes=1), 7)
    assert study.progress(url, NAME) == study.Progress(0, 0, 0, 0, 0, 0, None, 0.0, False)
    assert study.trials(url, NAME) == []
    with study.loaded(url, NAME) as own:
        assert own.user_attrs["seed"] == 7
        assert study.budget_of(own) == Budget(trials=3, minutes=1)


def test_create_again_keeps_the_trials_and_sets_the_budget(lite):
    first = {"x": 0.25}
    study.create(lite, NAME, Budget(trials=2), 7, [first])
    run(lite, 2)
    assert study.progress(lite, NAME).spent
    study.create(lite, NAME, Budget(trials=3), 99, [{"x": 0.75}])
    after = study.progress(lite, NAME)
    assert (after.trials, after.complete, after.waiting, after.spent) == (2, 2, 0, False)
    with study.loaded(lite, NAME) as own:
        assert own.user_attrs["seed"] == 7
    assert study.trials(lite, NAME)[0].params == first


def test_a_study_that_spent_its_budget_on_failures_starts_over(lite):
    study.create(lite, NAME, Budget(trials=2), 7)
    run(lite, 1, boom)
    study.create(lite, NAME, Budget(trials=2), 7)
    assert study.progress(lite, NAME).failed == 1
    run(lite, 1, boom)
    assert study.progress(lite, NAME).spent
    study.create(lite, NAME, Budget(trials=2), 8)
    assert study.progress(lite, NAME) == study.Progress(0, 0, 0, 0, 0, 0, None, 0.0, False)
    with study.loaded(lite, NAME) as own:
        assert own.user_attrs["seed"] == 8
        take(own)
        take(own)
    study.create(lite, NAME, Budget(trials=2), 7)
    assert study.progress(lite, NAME).running == 2


def test_best_is_the_lowest_with_its_recipe(lite):
    study.create(lite, NAME, Budget(trials=4), 0)
    values = iter([0.4, 0.2, 0.2, 0.3])
    run(lite, 4, lambda trial: trial.suggest_float("x", 0, 1) * 0 + next(values))
    best = study.chosen(lite, NAME)
    assert (best.number, best.value, best.recipe) == (1, 0.2, RECIPE)
    np.testing.assert_array_equal(best.calibration.factor_HQ, 0.2)
    assert best.params == study.trials(lite, NAME)[1].params
    assert study.progress(lite, NAME).best_value == 0.2


def test_best_of_each_normalisation_the_best_of_all_first(lite):
    study.create(lite, NAME, Budget(trials=6), 0)
    values = [0.4, 0.3, 0.2, 0.1, 0.3, 0.5]
    kinds = ["none", "none", "instance", "last_value", "none", "instance"]
    run(lite, 6, lambda trial: values[trial.number], normalisation=kinds.__getitem__)
    found = study.chosen_of_each(lite, NAME)
    assert [(one.number, one.value) for one in found] == [(3, 0.1), (2, 0.2), (1, 0.3)]
    assert [one.recipe.model.normalisation for one in found] == ["last_value", "instance", "none"]
    assert [one.calibration.factor_HQ[0, 0] for one in found] == [0.1, 0.2, 0.3]
    assert study.chosen(lite, NAME).number == 3


def test_the_trial_of_an_older_worker_is_refused(lite):
    study.create(lite, NAME, Budget(trials=1), 0)
    with study.loaded(lite, NAME) as own:
        own.sampler = Sampler(0, Budget())

        def without_calibration(trial):
            trial.set_user_attr(places.RECIPE, RECIPE.to_dict())
            return trial.suggest_float("x", 0, 1)

        own.optimize(without_calibration, n_trials=1)
    with pytest.raises(SearchFailed, match=r"trial 0 has no losses.* Remedy: "):
        study.chosen(lite, NAME)


def test_best_of_nothing_says_what_became_of_the_trials(lite):
    study.create(lite, NAME, Budget(trials=4), 0)
    with pytest.raises(SearchFailed, match="none was started"):
        study.chosen(lite, NAME)
    run(lite, 2, boom)
    with pytest.raises(SearchFailed, match=r"2 failed\. Reasons: RuntimeError: boom$"):
        study.chosen(lite, NAME)


def test_rows_tell_state_curve_and_reason(lite):
    study.create(lite, NAME, Budget(trials=9), 0)

    def pruned(trial):
        trial.report(0.5, 1)
        trial.report(0.4, 2)
        trial.set_user_attr(places.EPOCHS, {"time": time.time(), "train_losses": [0.6, 0.5]})
        trial.set_user_attr(places.END, {"time": time.time() + 3, "reason": "too slow"})
        raise optuna.TrialPruned

    run(lite, 1)
    run(lite, 1, pruned)
    run(lite, 1, boom)
    finished, cut, failed = study.trials(lite, NAME)
    assert (finished.state, finished.reason, finished.curve) == ("finished", "", ())
    assert finished.value == finished.params["x"]
    assert (cut.state, cut.value, cut.reason) == ("pruned", None, "too slow")
    assert (cut.curve, cut.train_curve) == ((0.5, 0.4), (0.6, 0.5))
    assert 3 <= cut.seconds < 10
    assert (failed.state, failed.value, failed.reason) == ("failed", None, "RuntimeError: boom")
    own = study.progress(lite, NAME)
    assert (own.complete, own.pruned, own.failed, own.running, own.trials) == (1, 1, 1, 0, 3)


def test_a_dead_worker_costs_no_place_and_its_trial_waits_for_the_next(url):
    study.create(url, NAME, Budget(trials=2), 0)
    with study.loaded(url, NAME) as own:
        process = str(dead_process())
        take(own, **{places.CLAIM: {"process": process, "time": time.time() - 500}})
    before = study.progress(url, NAME)
    assert (before.running, before.trials) == (1, 1)
    assert study.clean(url, NAME) == 1
    assert study.clean(url, NAME) == 0
    after = study.progress(url, NAME)
    assert (after.running, after.waiting, after.failed, after.trials, after.spent) == (0, 1, 0, 1, False)
    assert after.seconds < 5  # the hours until somebody looked are not searching
    run(url, 2)
    killed, again, other = study.trials(url, NAME)
    assert killed.reason == "its process was killed"
    assert again.params == killed.params
    assert other.params != killed.params
    done = study.progress(url, NAME)
    assert (done.trials, done.complete, done.failed, done.spent) == (2, 2, 0, True)


def test_what_kills_its_process_three_times_fails(lite):
    study.create(lite, NAME, Budget(trials=2), 0)
    process = str(dead_process())
    for _ in range(3):
        with study.loaded(lite, NAME) as own:
            take(own, **{places.CLAIM: {"process": process, "time": time.time()}})
        study.clean(lite, NAME)
    after = study.progress(lite, NAME)
    assert (after.trials, after.failed, after.waiting) == (1, 1, 0)
    assert len({str(row.params) for row in study.trials(lite, NAME)}) == 1


def test_interruptions_are_not_kills(lite):
    study.create(lite, NAME, Budget(trials=2), 0)
    for _ in range(5):
        with study.loaded(lite, NAME) as own:
            trial = take(own)
            frozen = own.get_trials()[trial.number]
            assert study.fail_running(own, frozen, "interrupted", killed=False)
            assert not study.fail_running(own, frozen, "interrupted", killed=False)
    after = study.progress(lite, NAME)
    assert (after.trials, after.waiting, after.failed) == (1, 1, 0)


def test_clean_leaves_the_living_alone(lite):
    study.create(lite, NAME, Budget(trials=2), 0)
    with study.loaded(lite, NAME) as own:
        take(own)
        take(own, **{places.CLAIM: {"process": "elsewhere:1:1.00", "time": time.time()}})
        assert study.clean(lite, NAME) == 0
    assert study.progress(lite, NAME).running == 2


def test_a_silent_heartbeat_is_found_from_any_host(url, monkeypatch):
    study.create(url, NAME, Budget(trials=2), 0)
    with study.loaded(url, NAME) as own:
        trial = take(own, **{places.CLAIM: {"process": "elsewhere:1:1.00", "time": time.time()}})
        own._storage.record_heartbeat(trial._trial_id)
        assert study.clean(url, NAME) == 0
        monkeypatch.setattr("lstm.search.storage.GRACE_SECONDS", 1)
        time.sleep(2.5)
    assert study.clean(url, NAME) == 1
    after = study.progress(url, NAME)
    assert (after.running, after.waiting, after.trials) == (0, 1, 1)
    with study.loaded(url, NAME) as own:
        assert places.CLAIM not in own.get_trials()[-1].user_attrs
    assert study.trials(url, NAME)[0].reason == "its process was killed"


def test_a_trial_that_nobody_signed_is_failed_after_the_grace(lite, monkeypatch):
    study.create(lite, NAME, Budget(trials=2), 0)
    with study.loaded(lite, NAME) as own:
        own.ask()
    assert study.clean(lite, NAME) == 0
    monkeypatch.setattr(study, "GRACE_SECONDS", -1)
    assert study.clean(lite, NAME) == 1


def test_minutes_count_the_time_in_which_a_trial_ran(lite):
    study.create(lite, NAME, Budget(trials=9, minutes=1), 0)
    now = time.time()
    spans = [(0, 20), (10, 30), (12, 14), (100, 125)]  # 30 and 25 seconds, with a pause
    with study.loaded(lite, NAME) as own:
        for start, end in spans:
            trial = take(own)
            trial.set_user_attr(places.CLAIM, {"process": str(this_process()), "time": now + start})
            trial.set_user_attr(places.END, {"time": now + end, "reason": ""})
            own.tell(trial, 0.5)
    after = study.progress(lite, NAME)
    assert after.seconds == pytest.approx(55)
    assert not after.spent
    study.create(lite, NAME, Budget(trials=9, minutes=0.9), 0)
    assert study.progress(lite, NAME).spent


def test_a_trial_beyond_the_last_place_is_neither_counted_nor_shown(lite):
    budget = Budget(trials=2)
    study.create(lite, NAME, budget, 0)
    with study.loaded(lite, NAME) as own:
        for _ in range(3):
            take(own)
        frozen = own.get_trials()
        assert [places.is_beyond(frozen, number, budget) for number in range(3)] == [False, False, True]
        own._storage.set_trial_user_attr(frozen[2]._trial_id, places.BEYOND, True)
        own.tell(2, state=TrialState.FAIL)
    after = study.progress(lite, NAME)
    assert (after.trials, after.running, after.failed, after.spent) == (2, 2, 0, True)
    assert [row.number for row in study.trials(lite, NAME)] == [0, 1]
    # Nor does it fill a place when the budget grows.
    study.create(lite, NAME, Budget(trials=3), 0)
    assert not study.progress(lite, NAME).spent


def test_a_repeated_trial_keeps_its_place_in_the_budget(lite):
    budget = Budget(trials=2)
    study.create(lite, NAME, budget, 0)
    with study.loaded(lite, NAME) as own:
        for _ in range(2):
            take(own)
        assert study.fail_running(own, own.get_trials()[0], "", killed=True)
        assert not places.is_spent(own.get_trials(), budget)
        again = take(own)
        assert again.number == 2
        assert not places.is_beyond(own.get_trials(), 2, budget)
        assert places.is_spent(own.get_trials(), budget)


def test_more_first_parameters_than_places_do_not_wait_for_ever(lite):
    study.create(lite, NAME, Budget(trials=1), 0, [{"x": 0.1}, {"x": 0.2}])
    assert not study.progress(lite, NAME).spent
    run(lite, 1)
    after = study.progress(lite, NAME)
    assert (after.trials, after.waiting, after.spent) == (1, 0, True)
    assert [row.params for row in study.trials(lite, NAME)] == [{"x": 0.1}]


def test_draws_depend_on_seed_and_number_not_on_the_process(tmp_path, template):
    def params(name, seed, sessions):
        shutil.copy(template, tmp_path / name)
        url = f"sqlite:///{tmp_path}/{name}"
        study.create(url, NAME, Budget(trials=6), seed)
        for count in sessions:
            run(url, count)
        return [row.params["x"] for row in study.trials(url, NAME)]

    once = params("once", 3, [6])
    assert params("resumed", 3, [2, 4]) == once
    assert len(set(once)) == 6
    assert params("other", 4, [2]) != once[:2]


def test_importance_tells_what_mattered(lite):
    study.create(lite, NAME, Budget(trials=30), 0)

    def objective(trial):
        return trial.suggest_float("x", 0, 1) + 0 * trial.suggest_float("noise", 0, 1)

    run(lite, 3, objective)
    assert study.importance(lite, NAME) == {}
    run(lite, 12, objective)
    found = study.importance(lite, NAME)
    assert next(iter(found)) == "x"
    assert found["x"] > 0.9
    assert sum(found.values()) == pytest.approx(1)


def test_importance_of_equal_losses_is_empty(lite):
    study.create(lite, NAME, Budget(trials=9), 0)
    run(lite, 5, lambda trial: 0 * trial.suggest_float("x", 0, 1))
    assert study.importance(lite, NAME) == {}


def test_the_pruner_waits_and_then_cuts_what_is_worse_than_the_median(lite):
    own = optuna.create_study(pruner=pruner(Budget(trials=8), 10))
    assert not _pruned_at(own, [0.9] * 10)
    assert not _pruned_at(own, [0.5] * 10)
    assert _pruned_at(own, [0.8] * 10) == 3  # a fifth of ten epochs is left alone
    assert not _pruned_at(own, [0.4] * 10)


def _pruned_at(own, curve):
    trial = own.ask()
    for epoch, loss in enumerate(curve, start=1):
        trial.report(loss, epoch)
        if trial.should_prune():
            own.tell(trial, state=TrialState.PRUNED)
            return epoch
    own.tell(trial, min(curve))
    return 0


def test_a_study_that_is_not_there_names_the_remedy(url):
    with pytest.raises(SearchFailed, match="create the study first"):
        study.progress(url, NAME)
    study.create(url, "another", Budget(), 0)
    with pytest.raises(SearchFailed, match="no study night"):
        study.chosen(url, NAME)


@pytest.mark.parametrize("dialect", ["postgresql", "postgresql+psycopg"])
def test_a_password_is_never_shown(dialect):
    url = f"{dialect}://me:hush@127.0.0.1:1/base"
    assert "hush" not in shown(url)
    for use in (prepare, lambda one: study.progress(one, NAME)):
        with pytest.raises(SearchFailed) as caught:
            use(url)
        assert "hush" not in str(caught.value)
        assert "127.0.0.1" in str(caught.value)


def test_waiting_trials_are_taken_once(url):
    """Optuna reads a state and then changes it; without an early lock two workers take one trial."""
    study.create(url, NAME, Budget(trials=24), 0, [{"x": number / 24} for number in range(24)])
    taken, barrier = [], threading.Barrier(4)

    def worker():
        with study.loaded(url, NAME) as own:
            barrier.wait()
            for _ in range(6):
                taken.append(own.ask().number)

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(24))


def test_two_cleaners_queue_a_dead_trial_once(url):
    study.create(url, NAME, Budget(trials=8), 0)
    process = str(dead_process())
    with study.loaded(url, NAME) as own:
        for _ in range(4):
            take(own, **{places.CLAIM: {"process": process, "time": time.time()}})
    cleaned, barrier = [], threading.Barrier(3)

    def cleaner():
        barrier.wait()
        cleaned.append(study.clean(url, NAME))

    threads = [threading.Thread(target=cleaner) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cleaned) == 3
    after = study.progress(url, NAME)
    assert (after.waiting, after.running, after.trials) == (4, 0, 4)
    assert len(study.trials(url, NAME)) == 8


@pytest.mark.slow
def test_several_processes_may_prepare_a_fresh_database(url):
    code = f"from lstm.search.storage import prepare; print(flush=True); input(); prepare({url!r})"
    children = [Fork(code, stdin=PIPE, stdout=PIPE) for _ in range(4)]
    for child in children:
        assert child.stdout.readline() == "\n"
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        child.communicate()
    assert [child.returncode for child in children] == [0] * 4
    study.create(url, NAME, Budget(), 0)
    with opened(url):
        assert not study.progress(url, NAME).spent
