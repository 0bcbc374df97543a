"""A comparison end to end, on real stores: the page, the run, again, and after a kill."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from nights import Command, House

from data.retrain import Encoder
from flows.comparing import Wish, open_comparison
from lstm.comparison.contenders import WrongComparison

WISH = ("--networks", "gru,rnn", "--lookbacks", "12,24", "--trials", "2", "--minutes", "1", "--seeds", "2")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    house = House(tmp_path_factory.mktemp("house"))
    house.declare("one")
    house.write("one", 24 * 40)
    house.declare("bad")
    house.write("bad", 24 * 40, lambda lines: lines.insert(100, "2024-01-05 03:00,inf"))
    return house


def compare(house: House, *words: str, status: int = 0):
    command = Command(house, "compare", *words, "--json")
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
    seeds = [len(one["seeds"]) for one in outcome["favourites"] if one["searched"]]
    assert len(set(seeds)) == 1
    assert seeds[0] in (1, 2)
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
    assert len(before) == 4 * (3 + seeds[0])
    again = compare(house, "one", *WISH)
    kept = files(house)
    assert {name: kept[name] for name in before} == before
    if kept.keys() == before.keys():
        assert without_times(again) == without_times(outcome)
    assert len(house.runs("one", "comparison")) == 1


def without_times(outcome: Any) -> Any:
    """Baselines are fitted again, which takes another time, if little."""
    if isinstance(outcome, dict):
        return {key: without_times(value) for key, value in outcome.items() if "seconds" not in key}
    return [without_times(value) for value in outcome] if isinstance(outcome, list) else outcome


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_comparison_goes_on(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.declare("one")
    house.write("one", 24 * 40)
    wish = ("one", *WISH[:-1], "1")
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
    assert len(kept) == 4 * 4
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
    house: House, words: tuple[str, ...], status: int, told: str
) -> None:
    assert told in json.dumps(compare(house, *words, status=status))


@pytest.mark.parametrize(
    ("networks", "lookbacks", "told"),
    [
        ((), (12,), r"one: cell: .*Remedy: name networks of lstm, gru, rnn, transformer"),
        (("gru",), (10,), r"lookback 10 is not a multiple of segment_length 12.*Remedy: .*multiples of 12"),
    ],
)
def test_a_wish_that_cannot_be_compared_is_refused(
    house: House, networks: tuple[Encoder, ...], lookbacks: tuple[int, ...], told: str
) -> None:
    """As a deployment may ask for it, which has no options to check."""
    wish = Wish(networks, lookbacks, trials=1, minutes=1.0, seeds=1, workers=1)
    with pytest.raises(WrongComparison, match=told):
        open_comparison(house.settings, "one", None, wish)
    assert not (house.home / "comparisons").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--networks", ","), "',' names nothing"),
        (("--lookbacks", " "), "' ' names nothing"),
        (("--networks", "tcn"), "'tcn' is not one of lstm, gru, rnn"),
        (("--lookbacks", "48,x"), "'x' is not a whole number above 0"),
        (("--trials", "0"), "'0' is not a whole number above 0"),
        (("--minutes", "0"), "--minutes"),
    ],
)
def test_wrong_options_say_what_is_right(house: House, words: tuple[str, ...], told: str) -> None:
    command = Command(house, "compare", "one", *words)
    assert command.end(60) == 2
    assert told in re.sub(r"[\s│]+", " ", command.text)
