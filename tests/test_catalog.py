"""The catalog: data sets declared and validated; every error names file, key and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data.calendar import Frequency
from data.catalog import SHIPPED, DataSet, load_catalog, parse_data_set
from data.errors import CatalogError, UnknownDataSet
from data.retrain import Budget, Interval, Margins, Retrain, SearchSpace, default_seasons, defaults

ENTRY: dict[str, Any] = {
    "source": {"kind": "csv", "path": "load.csv"},
    "time": "when",
    "target": "load",
    "frequency": "h",
}


def parse(**keys: Any) -> DataSet:
    return parse_data_set(Path("home/catalog.yaml"), "made", {**ENTRY, **keys})


def refused(**keys: Any) -> str:
    with pytest.raises(CatalogError) as error:
        parse(**keys)
    return str(error.value)


def test_the_shipped_catalog_is_valid() -> None:
    catalog = load_catalog()
    data_set = catalog.get("household_power")
    assert catalog.path == SHIPPED
    assert data_set.grid == Frequency("h", "Etc/GMT-1")
    assert data_set.clock == "data"
    assert len(data_set.covariates) == 6
    assert data_set.folder == SHIPPED.parent
    assert "CC BY 4.0" in data_set.licence


@pytest.mark.parametrize(
    "frequency", ["min", "5min", "15min", "30min", "h", "6h", "12h", "D", "W", "W-MON", "MS"]
)
def test_four_keys_are_enough_at_every_frequency(frequency: str) -> None:
    data_set = parse(frequency=frequency)
    retrain = data_set.retrain
    assert data_set.seasons == default_seasons(data_set.grid)
    for span in (retrain.validation, retrain.judge):
        assert data_set.grid.steps(span) >= retrain.horizon
    assert all(
        lookback % s == 0
        for s in retrain.search_space.segment_length
        for lookback in retrain.search_space.lookback
    )
    assert retrain.horizon == defaults(data_set.grid)["horizon"]


def test_a_key_of_the_retrain_block_leaves_the_other_defaults() -> None:
    retrain = parse(retrain={"horizon": 12, "budget": {"trials": 3}}).retrain
    assert (retrain.horizon, retrain.budget.trials, retrain.budget.minutes) == (12, 3, Budget().minutes)
    assert retrain.validation == parse().retrain.validation
    assert retrain.search_space == parse().retrain.search_space


def test_an_empty_retrain_block_is_all_defaults() -> None:
    assert parse(retrain=None).retrain == parse().retrain


def test_roles_of_columns() -> None:
    data_set = parse(columns={"heat": "past", "note": "ignore", "wind": "past"}, series="place")
    assert data_set.covariates == ("heat", "wind")
    assert "column 'load' has two roles" in refused(columns={"load": "past"})
    assert "column 'when' has two roles" in refused(series="when")


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"tagret": "load"}, "home/catalog.yaml: made.tagret: unknown key; did you mean 'target'?"),
        ({"qqqq": 1}, "made.qqqq: unknown key; remove it"),
        ({"retrain": {"horizn": 3}}, "made.retrain.horizn: unknown key; did you mean 'horizon'?"),
        (
            {"retrain": {"budget": {"trial": 3}}},
            "made.retrain.budget.trial: unknown key; did you mean 'trials'?",
        ),
        ({"target": None}, "made.target: Input should be a valid string (found None)"),
        ({"retrain": {"horizon": "day"}}, "made.retrain.horizon: Input should be a valid integer"),
        ({"retrain": {"horizon": 0}}, "made.retrain.horizon: Input should be greater than or equal to 1"),
        ({"retrain": {"judge": "3h"}}, "retrain.judge is shorter than the horizon of 24 steps"),
        ({"retrain": {"judge": "soon"}}, "'soon' is not a duration"),
        ({"retrain": {"quantiles": [0.5, 0.1]}}, "quantiles must rise strictly"),
        ({"retrain": {"quantiles": [0.1, 0.9]}}, "quantiles must hold 0.5"),
        ({"retrain": {"margins": {"champion": 1}}}, "made.retrain.margins.champion"),
        ({"retrain": ["horizon"]}, "made.retrain"),
        ({"frequency": "7min"}, "frequency '7min' does not divide a day"),
        ({"frequency": "hourly"}, "unknown frequency 'hourly'"),
        ({"frequency": 1}, "made.frequency: Input should be a valid string"),
        ({"time_zone": "Mars/Base"}, "unknown time zone 'Mars/Base'"),
        ({"seasons": [1]}, "made.seasons.0"),
        ({"staleness": "often"}, "'often' is not a duration"),
        ({"aggregate": "median"}, "made.aggregate"),
        ({"columns": {"heat": "future"}}, "made.columns.heat"),
        ({"source": {"kind": "xlsx", "path": "x"}}, "made.source"),
        ({"source": {"kind": "sql", "path": "x"}}, "made.source.sql.url: missing; add it"),
    ],
)
def test_every_mistake_is_named_with_file_and_key(keys: dict[str, Any], text: str) -> None:
    assert text in refused(**keys)


def test_a_missing_key_and_all_mistakes_at_once() -> None:
    with pytest.raises(CatalogError) as error:
        parse_data_set(Path("c.yaml"), "made", {"source": ENTRY["source"], "frequency": "h", "tim": 1})
    lines = str(error.value).splitlines()
    assert "c.yaml: made.time: missing; add it" in lines
    assert "c.yaml: made.target: missing; add it" in lines
    assert "c.yaml: made.tim: unknown key; did you mean 'time'?" in lines


def test_names_and_entries_have_a_form() -> None:
    for name in ("Load", "1st", "a-b", "x" * 64, ""):
        with pytest.raises(CatalogError, match="name"):
            parse_data_set(Path("c.yaml"), name, ENTRY)
    with pytest.raises(CatalogError, match="expected keys and values, found list"):
        parse_data_set(Path("c.yaml"), "made", [])


def test_a_wrong_name_suggests_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(yaml.safe_dump({"north_load": ENTRY, "south_heat": ENTRY}))
    catalog = load_catalog(path)
    assert catalog.get("south_heat").name == "south_heat"
    with pytest.raises(UnknownDataSet, match="did you mean 'north_load'"):
        catalog.get("nroth_load")
    with pytest.raises(UnknownDataSet, match="it has north_load, south_heat"):
        catalog.get("zzz")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "no such catalog. Remedy: `nightcast data add FILE`"),
        (b"a: [", "cannot be read as YAML"),
        (b"\xff\xfe", "not UTF-8 text. Remedy: save it as UTF-8"),
        (b"- a", "expected data set names at the top level, found list"),
    ],
)
def test_a_broken_catalog_names_its_file(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "catalog.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CatalogError) as error:
        load_catalog(path)
    assert str(error.value).startswith(f"{path}: ")
    assert problem in str(error.value)


@given(st.sampled_from(["title", "licence"]), st.text(max_size=5))
def test_words_are_no_part_of_the_identity(key: str, text: str) -> None:
    assert parse(**{key: text}).config_hash("1") == parse().config_hash("1")


def test_the_identity_is_what_changes_a_nights_result() -> None:
    plain = parse().config_hash("1")
    elsewhere = parse_data_set(Path("elsewhere/catalog.yaml"), "made", ENTRY).config_hash("1")
    assert plain == elsewhere == parse(retrain={"schedule": "0 4 * * *"}).config_hash("1")
    others = [
        parse().config_hash("2"),
        parse(target="heat").config_hash("1"),
        parse(columns={"heat": "past"}).config_hash("1"),
        parse(retrain={"seed": 1}).config_hash("1"),
        parse(time_zone="Europe/Paris").config_hash("1"),
        parse().with_budget(Budget(trials=3)).config_hash("1"),
    ]
    assert len({plain, *others}) == 7
    assert len(plain) == 12


def test_another_budget_changes_nothing_else() -> None:
    data_set = parse()
    budget = Budget(trials=2, minutes=1)
    changed = data_set.with_budget(budget)
    assert changed.retrain.budget == budget
    assert changed.with_budget(data_set.retrain.budget) == data_set
    assert data_set.with_budget(None) is data_set


def test_a_search_space_must_make_sense() -> None:
    assert SearchSpace(segment_length=(1, 24), lookback=(168,)).lookback == (168,)
    for wrong, text in (
        ({"segment_length": (5,), "lookback": (168,)}, "168 is not a multiple of segment_length 5"),
        ({"dropout": Interval(low=0, high=1)}, "dropout must lie in"),
        ({"learning_rate": Interval(low=0, high=1)}, "learning_rate must be above 0"),
        ({"cell": ()}, "at least 1 item"),
    ):
        with pytest.raises(ValueError, match=text):
            SearchSpace.model_validate(wrong)
    with pytest.raises(ValueError, match=r"low 2.0 is above high 1.0"):
        Interval(low=2, high=1)


def test_settings_are_frozen_and_margins_are_shares() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Margins().champion = 0.5  # type: ignore[misc]
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        Margins(champion=-0.1)
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        Retrain(horizon=1, validation="1d", judge="1d", embargo=-1)


@pytest.mark.parametrize(
    ("frequency", "seasons"),
    [("15min", (96, 672)), ("h", (24, 168)), ("6h", (4, 28)), ("D", (7,)), ("W-MON", (52,)), ("MS", (12,))],
)
def test_default_seasons_are_a_day_and_a_week_or_a_year(frequency: str, seasons: tuple[int, ...]) -> None:
    assert default_seasons(Frequency(frequency)) == seasons
