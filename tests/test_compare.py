"""A comparison end to end, on real stores: the page, the run, again, and after a kill."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import nursery
import pytest
import yaml
from nights import Command, Executable, House

from data.retrain import Encoder
from flows import comparison_report, embedded, leash
from flows.comparing import ContenderFailed, Wish, open_comparison
from flows.contender import Job
from flows.hold import ComparisonHeld, held
from lstm.comparison.bench import scaler_of
from lstm.comparison.contenders import WrongComparison, contenders, only
from lstm.comparison.results import Searched
from lstm.promotion.identity import Identity
from lstm.search.space import at_centre
from lstm.tracking.runs import PROCESS_TAG
from lstm.training.recipe import Recipe

NETWORKS = ("--networks", "gru,rnn", "--minutes", "1")
WISH = (*NETWORKS, "--lookbacks", "12,24", "--trials", "2", "--seeds", "1")


@pytest.fixture(scope="module")
def prefect(house: House) -> Iterator[dict[str, str]]:
    """A Prefect server for what needs none of its own, as the environment names it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(house.home / "prefect"))
        patch.setattr(leash, "start", nursery.start)
        server = embedded.Server(house.home / "logs" / "prefect.log")
    with server.used():
        yield {"PREFECT_API_URL": server.url}
    server.stop()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, lived_in: Path) -> House:
    house = House(tmp_path_factory.mktemp("house"), lived_in)
    house.declare("one")
    house.write("one", 24 * 40)
    house.declare("bad")
    house.write("bad", 24 * 40, lambda lines: lines.insert(100, "2024-01-05 03:00,inf"))
    return house


def compare(house: House, *words: str, status: int = 0, **environment: str):
    command = Command(house, "compare", *words, "--json", **environment)
    try:
        assert command.end(240) == status, command.text
        assert command.survivors(20) == []
        return command.result()
    finally:
        command.kill()


def files(house: House) -> dict[str, int]:
    """What contenders have left, by the moment of its writing."""
    kept = [*house.home.glob("comparisons/*/*.safetensors"), *house.home.glob("comparisons/*/*.json")]
    return {path.name: path.stat().st_mtime_ns for path in kept if path.name != "job.json"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_comparison_leaves_a_page_and_numbers_and_no_champion(house: House) -> None:
    outcome = compare(house, "one", *WISH)
    assert {one["network"] for one in outcome["favourites"]} == {"gru", "rnn", "linear", "seasonal_naive"}
    page = Path(outcome["page"]).read_text()
    assert outcome["recommendation"]["headline"] in page
    (run,) = house.runs("one", "comparison", "FINISHED")
    assert run.info.run_id == outcome["run_id"]
    artifacts = {item.path for item in house.mlflow.list_artifacts(run.info.run_id)}
    assert {"comparison.html", "comparison.json"} <= artifacts
    steps = house.mlflow.get_metric_history(run.info.run_id, "gru/mae")
    assert {metric.step for metric in steps} == {12, 24}
    assert house.mlflow.search_registered_models() == []
    assert not (house.home / "ledger.db").exists()
    assert list(house.home.rglob("checkpoints")) == []

    # Again: nothing is made twice, and the answer is the same.
    before = files(house)
    assert len(before) == 4 * 4
    again = compare(house, "one", *WISH)
    assert files(house) == before
    assert without_times(again) == without_times(outcome)
    assert len(house.runs("one", "comparison")) == 1


def without_times(outcome: Any) -> Any:
    """Baselines are fitted again, which takes another time, if little."""
    if isinstance(outcome, dict):
        return {key: without_times(value) for key, value in outcome.items() if "seconds" not in key}
    return [without_times(value) for value in outcome] if isinstance(outcome, list) else outcome


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_comparison_goes_on(tmp_path: Path, lived_in: Path) -> None:
    house = House(tmp_path, lived_in)
    house.declare("one")
    house.write("one", 24 * 40)
    wish = ("one", *NETWORKS, "--lookbacks", "24", "--trials", "1", "--seeds", "2")
    command = Command(house, "compare", *wish, "--json")
    try:
        command.until(lambda: any(name.endswith("search.json") for name in files(house)), 200)
        command.kill()
        assert command.survivors(20) == []
    finally:
        command.kill()
    before = files(house)
    outcome = compare(house, *wish)
    kept = files(house)
    assert {name: kept[name] for name in before} == before
    seeds = [len(one["seeds"]) for one in outcome["favourites"] if one["searched"]]
    assert len(seeds) == 2
    assert len(set(seeds)) == 1
    assert seeds[0] in (1, 2)
    assert len(kept) == 2 * (3 + seeds[0])
    (run,) = house.runs("one", "comparison", "FINISHED")
    assert run.info.run_id == outcome["run_id"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("bad", *WISH), 1, "load"),
        (("one", "--networks", "transformer", "--minutes", "1"), 1, "hidden_size 4 of a transformer"),
        (("one", "--lookbacks", "4800", "--networks", "gru"), 1, "Too short"),
    ],
    ids=["data", "space", "length"],
)
def test_what_cannot_be_compared_is_refused(
    house: House, prefect: dict[str, str], words: tuple[str, ...], status: int, told: str
) -> None:
    assert told in json.dumps(compare(house, *words, status=status, **prefect))


HOLDING = """
import sys, time
from pathlib import Path
from filelock import FileLock
from data.files import write_atomically
from data.processes import this_process
folder = Path(sys.argv[1])
folder.mkdir(parents=True)
with FileLock(folder / "lock"):
    write_atomically(folder / "holder", str(this_process()).encode())
    (folder / f".{this_process()}.{8 * '0'}.gru-12.cost.json.tmp").touch()
    print(this_process(), flush=True)
    time.sleep(600)
"""


def test_a_comparison_is_alone_and_puts_in_order_what_a_killed_one_left(
    tmp_path: Path, lived_in: Path
) -> None:
    house = House(tmp_path, lived_in)
    house.declare("one")
    house.write("one", 24 * 40)
    wish = Wish(("gru",), (12,), trials=1, minutes=1.0, seeds=1, workers=1)
    comparing = open_comparison(house.settings, "one", None, wish)
    code = [sys.executable, "-c", HOLDING, str(comparing.folder)]
    with subprocess.Popen(code, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            process = other.stdout.readline().strip()
            with (
                pytest.raises(ComparisonHeld, match=f"in process {re.escape(process)} .*Remedy: wait"),
                held(comparing),
            ):
                pytest.fail("held twice")
        finally:
            other.kill()
    earlier = Identity.of("one", comparing.ground.panel.start, "0" * 12)
    left = [comparing.tracker.start_comparison(earlier), comparing.tracker.start_night(earlier)]
    for run in left:
        comparing.tracker.log_tags(run, {PROCESS_TAG: process})
    trials = comparing.records(contenders(comparing.job.data_set)[0]).trial_checkpoints
    assert trials.is_relative_to(comparing.folder)
    trials.mkdir(parents=True)
    with pytest.raises(ContenderFailed), held(comparing):
        raise ContenderFailed
    # A night's run is left to the next night.
    assert [comparing.tracker.run(run).info.status for run in left] == ["FAILED", "RUNNING"]
    assert list(comparing.folder.glob(".*.tmp")) == []
    assert trials.exists()
    with held(comparing):
        job = Job.model_validate_json((comparing.folder / "job.json").read_text())
        assert job.study == comparing.job.study
    assert not trials.exists()


def test_a_page_says_what_the_contenders_took_however_often_it_is_written(house: House) -> None:
    house.write("one", 24 * 40, lambda lines: lines.__delitem__(slice(100, 102)))
    wish = Wish(("gru",), (12,), trials=1, minutes=1.0, seeds=2, workers=1)
    comparing = open_comparison(house.settings, "one", None, wish)
    (one,) = contenders(comparing.job.data_set)
    ground = comparing.ground
    scaled = scaler_of(ground).scale(ground.panel, ground.data_set.retrain.horizon)
    records, recipe = comparing.records(one), Recipe(*at_centre(only(ground.data_set, one), scaled), 3)
    records.save_search(Searched(recipe, 0.2, 1, 0, 0, seconds=90.0))
    for seed in range(2):
        records.save_forecast(seed, np.zeros((1, 6, 5), np.float32), seconds=15.0)
    facts = comparison_report._facts(comparing)
    assert facts["Searched and trained"] == "2.0 minutes, over all contenders"
    assert re.fullmatch(r"steps without a value, .* 2 times\)\.", facts["Found in the data"])


@pytest.mark.slow
def test_an_interrupted_comparison_says_how_to_go_on(tmp_path: Path, lived_in: Path) -> None:
    """By a wall clock, the same command would compare as of another hour."""
    house = House(tmp_path, lived_in)
    house.declare("one")
    house.entries["one"] |= {"clock": "wall"}
    house.catalog.write_text(yaml.safe_dump(house.entries))
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    hours = [now - timedelta(hours=hour) for hour in range(24 * 40, 0, -1)]
    lines = [f"{hour:%Y-%m-%d %H:%M},{number % 24 + number % 7}" for number, hour in enumerate(hours)]
    (tmp_path / "one.csv").write_text("\n".join(["time,load", *lines]) + "\n")
    command = Command(house, "compare", "one", *WISH)
    try:
        command.until(lambda: list(house.home.glob("comparisons/*/*.cost.json")), 200)
        command.process.send_signal(signal.SIGINT)
        assert command.end(60) != 0
        assert command.survivors(20) == []
    finally:
        command.kill()
    (folder,) = house.home.glob("comparisons/*")
    (told,) = re.findall(r"To go on later: --as-of (\S+)", command.text)
    step = datetime.fromisoformat(told).astimezone(UTC)
    assert now - timedelta(hours=1) <= step <= now
    wish = Wish(("gru", "rnn"), (12, 24), trials=2, minutes=1.0, seeds=1, workers=1)
    assert open_comparison(house.settings, "one", step, wish).folder == folder


@pytest.mark.parametrize(
    ("networks", "lookbacks", "told"),
    [
        ((), (12,), r"one: cell: .*Remedy: name networks of lstm, gru, rnn, transformer"),
        (
            ("gru",),
            (10,),
            r"^one: lookback 10 is not a multiple of segment_length 12.*Remedy: .*multiples of 12",
        ),
    ],
)
def test_a_wish_that_cannot_be_compared_is_refused(
    house: House, networks: tuple[Encoder, ...], lookbacks: tuple[int, ...], told: str
) -> None:
    """As a deployment may ask for it, which has no options to check."""
    wish = Wish(networks, lookbacks, trials=1, minutes=1.0, seeds=1, workers=1)
    with pytest.raises(WrongComparison, match=told):
        open_comparison(house.settings, "one", None, wish)


@pytest.mark.parametrize(
    ("start", "words", "told"),
    [
        (Executable, ("--networks", ","), "',' names nothing"),
        (Command, ("--lookbacks", " "), "' ' names nothing"),
        (Command, ("--networks", "tcn"), "'tcn' is not one of lstm, gru, rnn"),
        (Command, ("--lookbacks", "48,x"), "'x' is not a whole number above 0"),
        (Command, ("--trials", "0"), "'0' is not a whole number above 0"),
        (Command, ("--minutes", "0"), "--minutes"),
    ],
)
def test_wrong_options_say_what_is_right(
    house: House, start: type[Command], words: tuple[str, ...], told: str
) -> None:
    command = start(house, "compare", "one", *words)
    assert command.end(60) == 2
    assert told in re.sub(r"[\s│]+", " ", command.text)
