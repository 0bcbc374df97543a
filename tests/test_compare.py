"""A comparison end to end, on real stores: the page, the run, again, and after a kill."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nights import Command, Executable, House

from flows import embedded

NETWORKS = ("--networks", "gru,rnn", "--minutes", "1")
WISH = (*NETWORKS, "--lookbacks", "12,24", "--trials", "2", "--seeds", "1")


@pytest.fixture(scope="module")
def prefect(house: House) -> Iterator[dict[str, str]]:
    """A Prefect server for what needs none of its own, as the environment names it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(house.home / "prefect"))
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
        (("one", "--lookbacks", "5000", "--networks", "gru"), 1, "Too short"),
    ],
    ids=["data", "space", "length"],
)
def test_what_cannot_be_compared_is_refused(
    house: House, prefect: dict[str, str], words: tuple[str, ...], status: int, told: str
) -> None:
    assert told in json.dumps(compare(house, *words, status=status, **prefect))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--networks", "tcn"), "'tcn' is not one of lstm, gru, rnn"),
        (("--lookbacks", "48,x"), "'x' is not a whole number above 0"),
        (("--trials", "0"), "'0' is not a whole number above 0"),
        (("--minutes", "0"), "--minutes"),
    ],
)
def test_wrong_options_say_what_is_right(house: House, words: tuple[str, ...], told: str) -> None:
    command = Executable(house, "compare", "one", *words)
    assert command.end(60) == 2
    assert told in re.sub(r"[\s│]+", " ", command.text)
