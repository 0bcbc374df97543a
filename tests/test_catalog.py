"""The catalog: data sets declared and validated; every error names file, key and remedy."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from entries import ENTRY, parse, refused
from hypothesis import given
from hypothesis import strategies as st

from data.calendar import Frequency
from data.catalog import SHIPPED, DataSet, Query, load_catalog, parse_data_set, parse_yaml
from data.errors import CatalogError, UnknownDataSet
from data.retrain import Retrain


def test_the_shipped_catalog_is_valid() -> None:
    catalog = load_catalog()
    data_set = catalog.get("household_power")
    assert catalog.path == SHIPPED
    assert data_set.grid == Frequency("h", "Etc/GMT-1")
    assert data_set.clock == "data"
    assert len(data_set.covariates) == 6
    assert data_set.folder == SHIPPED.parent
    assert "CC BY 4.0" in data_set.licence


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
        ({"retrain": {"train": "23h"}}, "retrain.train is shorter than the horizon of 24 steps"),
        ({"frequency": "D", "retrain": {"judge": "3h"}}, "retrain.judge is shorter than the horizon of 14"),
        ({"retrain": {"judge": "soon"}}, "'soon' is not a duration"),
        ({"retrain": {"quantiles": [0.5, 0.1]}}, "quantiles must rise strictly"),
        (
            {"retrain": {"ensemble": True, "search_space": {"normalisation": ["none"]}}},
            "normalisation has 'none' alone: list another",
        ),
        ({"retrain": {"quantiles": [0.1, 0.9]}}, "quantiles must hold 0.5"),
        ({"retrain": {"margins": {"champion": 1}}}, "made.retrain.margins.champion"),
        ({"retrain": ["horizon"]}, "made.retrain"),
        ({"frequency": "7min"}, "made.frequency: frequency '7min' does not divide a day"),
        ({"frequency": "hourly"}, "unknown frequency 'hourly'"),
        ({"frequency": 1}, "made.frequency: Input should be a valid string"),
        ({"time_zone": "Mars/Base"}, "made.time_zone: unknown time zone 'Mars/Base'"),
        ({"seasons": [1]}, "made.seasons.0"),
        ({"staleness": "often"}, "'often' is not a duration"),
        ({"aggregate": "median"}, "made.aggregate"),
        ({"exclude": ["north"]}, "exclude leaves series out; name the column that tells them apart as"),
        (
            {"columns": {"heat": "futur"}},
            "made.columns.heat: Input should be 'past', 'future', 'static' or 'ignore' (found 'futur')",
        ),
        ({"columns": {"kind": "static"}}, "'kind' is static, which tells series apart; name their column as"),
        ({"holidays": "FRA"}, "made.holidays: no holidays of a country 'FRA' are known"),
        ({"holidays": "fr"}, "did you mean FR"),
        ({"holidays": "DE-XX"}, "no holidays of a part 'XX' of DE are known; it has BB, BE, BW"),
        ({"holidays": False}, 'write "NO", in quotes, for Norway'),
        ({"retrain": {"search_space": {"cell": ["lsmt"]}}}, "made.retrain.search_space.cell.0: Input should"),
        ({"source": {"kind": "xlsx", "path": "x"}}, "made.source"),
        ({"source": {"kind": "sql", "path": "x"}}, "made.source.sql.url: missing; add it"),
    ],
)
def test_every_mistake_is_named_with_file_and_key(keys: dict[str, Any], text: str) -> None:
    assert text in refused(**keys)


KEYS = st.sampled_from(sorted(DataSet.model_fields.keys() - {"name", "folder"}))
WRONG = st.one_of(st.integers(-9, -1), st.just([[]]), st.just({"qqqq": 1}), st.just("\x00"), st.booleans())


@given(key=KEYS, value=WRONG)
def test_whatever_is_wrong_is_named_with_file_and_key(key: str, value: object) -> None:
    """Some of these values are right for some of the keys."""
    try:
        parse(**{key: value})
    except CatalogError as error:
        for line in str(error).splitlines():
            assert line.startswith("home/catalog.yaml: made")
            assert key in line or "two roles" in line
            assert "pydantic" not in line


@given(key=st.sampled_from(sorted(Retrain.model_fields)), value=WRONG)
def test_whatever_is_wrong_in_the_retrain_block_is_too(key: str, value: object) -> None:
    try:
        parse(retrain={key: value})
    except CatalogError as error:
        for line in str(error).splitlines():
            assert line.startswith(("home/catalog.yaml: made.retrain", "home/catalog.yaml: made: retrain"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:hunter2@db/base",
        "postgresql+psycopg://me:hun/ter2#@db:5432/base",
        "postgresql+psycopg://me:${DB_PASSWORD}hunter2@db/base",
        "postgresql+psycopg://:hunter2@db/base",
        "postgresql+psycopg://me:p@hunter2@db/base",
        "postgresql+psycopg://me@db/base?sslmode=require&password=hunter2",
        "mssql+pyodbc://me@db/base?driver=ODBC&PWD=hunter2",
    ],
)
def test_a_written_out_password_is_refused_and_shown_nowhere(url: str, tmp_path: Path) -> None:
    source = {"kind": "sql", "url": url, "query": "select 1"}
    path = tmp_path / "catalog.yaml"
    path.write_text(yaml.safe_dump({"made": {**ENTRY, "source": source}}))
    with pytest.raises(
        CatalogError, match=r"made.source.sql.url: holds a password; write \$\{DB_PASS"
    ) as error:
        load_catalog(path)
    assert "hunter2" not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:${DB_PASSWORD}@db:5432/base?sslmode=require",
        "postgresql+psycopg://me@db/base?password=${DB_PASSWORD}&sslmode=require",
        "postgresql+psycopg://${USER}:${DB_PASSWORD}@db/base",
        "postgresql+psycopg://db:5432/base",
        "sqlite:///meters.db",
        "sqlite:////var/lib/at@home:1/meters.db",
        "${DATABASE_URL}",
    ],
)
def test_other_urls_are_taken_as_they_are(url: str) -> None:
    source = parse(source={"kind": "sql", "url": url, "query": "select 1"}).source
    assert isinstance(source, Query)
    assert source.url == url


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": "postgresql://me:hunter2@db/base"},
        {"source": {"kind": "sqll", "url": "postgresql://me:hunter2@db/base", "query": "select 1"}},
        {"source": {"kind": "sql", "ulr": "postgresql://me:hunter2@db/base", "query": "select 1"}},
        {"source": {"kind": "sql", "url": ["postgresql://me:hunter2@db/base"], "query": "select 1"}},
        {"source": {"kind": "sql", "url": "postgresql://me:hunter2@db/base"}, "columns": {"load": "past"}},
        {"password": "hunter2"},
    ],
)
def test_no_mistake_beside_a_password_shows_it(wrong: dict[str, Any]) -> None:
    with pytest.raises(CatalogError) as error:
        parse(**wrong)
    assert "hunter2" not in "".join(traceback.format_exception(error.value))


def test_broken_yaml_names_the_place_and_quotes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text("made:\n  source: {url: 'postgresql://me:hunter2@db/base'\n  time: when\n")
    with pytest.raises(CatalogError, match=r"cannot be read as YAML: line 3, column 3: .* Remedy") as error:
        load_catalog(path)
    assert "hunter2" not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (
            "a: {frequency: h, time: t, frequency: D}",
            "line 1, column 28: the key 'frequency' stands in line 1",
        ),
        ("a:\n  time: t\n  target: y\n  'time': s\n", "line 4, column 3: the key 'time' stands in line 2"),
        ("a: {}\nb: {}\n\na: {}\n", "line 4, column 1: the key 'a' stands in line 1"),
        ("a: {retrain: {seed: 1, seed: 2}}", "line 1, column 24: the key 'seed' stands in line 1"),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(text)
    with pytest.raises(CatalogError, match="cannot be read as YAML") as error:
        load_catalog(path)
    assert place in str(error.value)
    assert str(path) in str(error.value)


def test_what_a_merge_brings_along_may_be_given_again(tmp_path: Path) -> None:
    """In an anchor that lies deeper than the mapping that merges it, too."""
    text = (
        "base: &base {x: 1, y: 2}\n"
        "deep: {inner: &inner {<<: *base, x: 3}}\n"
        "both: {<<: [*inner, *base], y: 4}\n"
        "twice: {<<: *base, <<: *inner}\n"
    )
    raw = parse_yaml(tmp_path, text)
    assert raw == yaml.safe_load(text)
    assert raw["both"] == {"x": 3, "y": 4}  # type: ignore[index]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(value=VALUES)
def test_whatever_yaml_writes_is_read_back(value: object) -> None:
    assert parse_yaml(Path("c.yaml"), yaml.safe_dump(value, allow_unicode=True)) == value


IDS = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=9)


@given(ids=st.lists(IDS, min_size=1, max_size=5), more=st.lists(IDS, max_size=3))
def test_what_to_exclude_can_be_pasted(ids: list[str], more: list[str]) -> None:
    pasted = parse(series="place", exclude=ids).excluding(more)
    assert "\n" not in pasted
    assert yaml.safe_load(pasted) == {"exclude": [*ids, *more]}


def test_a_missing_key_and_all_mistakes_at_once() -> None:
    with pytest.raises(CatalogError) as error:
        parse_data_set(Path("c.yaml"), "made", {"source": ENTRY["source"], "frequency": "h", "tim": 1})
    lines = str(error.value).splitlines()
    assert "c.yaml: made.time: missing; add it" in lines
    assert "c.yaml: made.target: missing; add it" in lines
    assert "c.yaml: made.tim: unknown key; did you mean 'time'?" in lines


def test_names_and_entries_have_a_form() -> None:
    for name in ("Load", "1st", "a-b", "x" * 64, ""):
        with pytest.raises(
            CatalogError, match=f"c.yaml: '{name}': a name is lower-case letters, digits and _"
        ):
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
        (b"# nothing yet", "empty. Remedy: `nightcast data add FILE` writes a first entry"),
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


CHANGES: list[dict[str, Any]] = [
    {"source": {"kind": "csv", "path": "other.csv"}},
    {"source": {"kind": "parquet", "path": "load.csv"}},
    {"time": "then"},
    {"target": "heat"},
    {"series": "place"},
    {"columns": {"heat": "past"}},
    {"columns": {"heat": "future"}},
    {"holidays": "FR"},
    {"holidays": "DE-BY"},
    {"columns": {"heat": "ignore"}},
    {"columns": {"heat": "past", "wind": "past"}},
    {"series": "place", "exclude": ["north"]},
    {"frequency": "2h"},
    {"seasons": [24]},
    {"seasons": [168, 24]},
    {"time_zone": "Europe/Paris"},
    {"clock": "data"},
    {"publication_delay": "2h"},
    {"staleness": "4d"},
    {"aggregate": "mean"},
    {"gaps": {"longest": "8d"}},
    {"non_negative": True},
    {"retrain": {"horizon": 23}},
    {"retrain": {"train": "52w"}},
    {"retrain": {"validation": "5w"}},
    {"retrain": {"judge": "5w"}},
    {"retrain": {"embargo": 1}},
    {"retrain": {"quantiles": [0.1, 0.5, 0.9]}},
    {"retrain": {"max_epochs": 29}},
    {"retrain": {"seed": 1}},
    {"retrain": {"ensemble": True}},
    {"retrain": {"search_space": {"cell": ["rnn"]}}},
    {"retrain": {"search_space": {"dropout": {"low": 0.0, "high": 0.1}}}},
    {"retrain": {"budget": {"trials": 3}}},
    {"retrain": {"budget": {"minutes": 3}}},
    {"retrain": {"margins": {"champion": 0.01}}},
    {"retrain": {"margins": {"seasonal_naive": 0.01}}},
]


def test_the_identity_is_everything_that_changes_a_nights_result() -> None:
    hashes = [parse(**change).config_hash("1") for change in [{}, *CHANGES]]
    assert len({*hashes, parse().config_hash("2")}) == len(CHANGES) + 2
    assert {len(text) for text in hashes} == {12}
    assert {key for change in CHANGES for key in change} == DataSet.model_fields.keys() - {
        "name",
        "folder",
        "title",
        "licence",
    }
    assert {key for change in CHANGES for key in change.get("retrain", ())} == Retrain.model_fields.keys() - {
        "schedule"
    }


@given(title=st.text(max_size=9), licence=st.text(max_size=9), hour=st.none() | st.integers(0, 23))
def test_words_schedule_and_folder_are_no_part_of_the_identity(
    title: str, licence: str, hour: int | None
) -> None:
    schedule = None if hour is None else f"0 {hour} * * *"
    entry = {**ENTRY, "title": title, "licence": licence, "retrain": {"schedule": schedule}}
    elsewhere = parse_data_set(Path("elsewhere/catalog.yaml"), "made", entry)
    assert elsewhere.config_hash("1") == parse().config_hash("1")
    assert parse_data_set(Path("home/catalog.yaml"), "other", ENTRY).config_hash("1") != parse().config_hash(
        "1"
    )
