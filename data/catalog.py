"""The catalog: each data set is declared, not coded. Loading validates every key and opens no data."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from data.calendar import Frequency, duration
from data.errors import CatalogError, UnknownDataSet
from data.holidays import check_code
from data.retrain import Budget, Duration, Retrain, Settings, default_seasons, defaults

SHIPPED = Path(__file__).with_name("catalog.yaml")
NAME = r"^[a-z][a-z0-9_]{0,62}$"
MERGE = "tag:yaml.org,2002:merge"

_PLACEHOLDER = re.compile(r"\$\{\w+\}")
_SECRET_KEYS = re.compile(r"[?&][^=&]*(?:passw|pwd|secret|token)[^=&]*=[^&]", re.IGNORECASE)

Role = Literal["past", "future", "static", "ignore"]
Aggregate = Literal["mean", "sum", "min", "max", "last"]


class Files(Settings):
    """CSV or Parquet: one file, or a glob of files with the same columns."""

    kind: Literal["csv", "parquet"]
    path: str = Field(description="Path or glob, relative to the catalog file")


class Query(Settings):
    """A SQL query. ``${NAME}`` in the URL is filled from the environment and shown nowhere."""

    kind: Literal["sql"]
    url: str = Field(description="SQLAlchemy URL, as in postgresql+psycopg://me:${DB_PASSWORD}@host/base")
    query: str

    @field_validator("url")
    @classmethod
    def _without_secrets(cls, url: str) -> str:
        """A password that stands in the URL would be copied wherever the data set is written to."""
        bare = _PLACEHOLDER.sub("", url)
        login = bare.partition("://")[2].rpartition("@")[0]
        if (not login.startswith("/") and login.partition(":")[2]) or _SECRET_KEYS.search(bare):
            raise ValueError(
                "holds a password; write ${DB_PASSWORD} in its place, and set DB_PASSWORD where nights run"
            )
        return url


class Gaps(Settings):
    """What missing steps mean: they stay missing (masked); a longer gap refuses the night."""

    longest: Duration = Field(
        "7d", description="Longest gap allowed inside the newest lookback, validation and judge spans"
    )


class DataSet(Settings):
    """One data set as the catalog declares it, with every default filled in.

    Attributes:
        name: the catalog key.
        folder: the folder that relative paths start from; no part of the identity.
        columns: role of each further column: ``past`` (known up to as-of), ``future`` (known ahead),
            ``static`` (one value a series) or ``ignore``. Columns not named here are ignored.
        holidays: country whose public holidays the calendar knows, as in ``FR`` or ``DE-BY``.
        clock: ``wall`` takes now for now; ``data`` takes the newest row's time.
        publication_delay: how long after a step its row arrives.
        staleness: how old the newest row may be at `as_of`.
        aggregate: how rows finer than the frequency become one; unset means one row a step.
        non_negative: forecasts are not below 0.
    """

    name: str = Field(pattern=NAME)
    folder: Path = Field(default=Path(), exclude=True)
    title: str = ""
    source: Annotated[Files | Query, Field(discriminator="kind")]
    time: str
    target: str
    series: str | None = None
    columns: Mapping[str, Role] = Field(default_factory=dict)
    exclude: tuple[str, ...] = Field((), description="Series ids left out on purpose")
    frequency: str
    seasons: tuple[Annotated[int, Field(ge=2)], ...] = Field(min_length=1)
    time_zone: str = "UTC"
    holidays: str | None = None
    clock: Literal["wall", "data"] = "wall"
    publication_delay: Duration = "0h"
    staleness: Duration = "3d"
    aggregate: Aggregate | None = None
    gaps: Gaps = Gaps()
    non_negative: bool = False
    licence: str = Field("", description="Licence and attribution of the data")
    retrain: Retrain

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, raw: Any) -> Any:
        """Defaults that depend on the frequency; a wrong frequency is reported by its own check."""
        if not isinstance(raw, dict):
            return raw
        try:
            frequency = Frequency(str(raw.get("frequency")))
        except ValueError:
            return {"retrain": {"horizon": 1, "validation": "1d", "judge": "1d"}, "seasons": [2], **raw}
        retrain = raw.get("retrain") or {}
        if isinstance(retrain, dict):
            horizon = retrain.get("horizon")
            filled = defaults(frequency, horizon if isinstance(horizon, int) else None)
            space = retrain.get("search_space", {})
            if isinstance(space, dict):
                space = filled["search_space"].with_keys(space)
            retrain = {**filled, **retrain, "search_space": space}
        return {"seasons": default_seasons(frequency), **raw, "retrain": retrain}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        roles = [self.time, self.target, *([self.series] if self.series else []), *self.columns]
        twice = {column for column in roles if roles.count(column) > 1}
        if twice:
            raise ValueError(f"column {min(twice)!r} has two roles")
        if self.static and not self.series:
            raise ValueError(
                f"column {self.static[0]!r} is static, which tells series apart; name their column as series:"
            )
        if self.exclude and not self.series:
            raise ValueError("exclude leaves series out; name the column that tells them apart as series:")
        step = timedelta(seconds=self.grid.seconds)
        for name in ("train", "validation", "judge"):
            span = getattr(self.retrain, name)
            if span is not None and -(-duration(span) // step) < self.retrain.horizon:
                raise ValueError(
                    f"retrain.{name} is shorter than the horizon of {self.retrain.horizon} steps"
                )
        return self

    @field_validator("frequency")
    @classmethod
    def _is_frequency(cls, text: str) -> str:
        Frequency(text)
        return text

    @field_validator("time_zone")
    @classmethod
    def _is_time_zone(cls, text: str) -> str:
        Frequency("h", text)
        return text

    @field_validator("holidays", mode="before")
    @classmethod
    def _are_known(cls, code: object) -> object:
        if code is False:
            raise ValueError('YAML reads NO as false; write "NO", in quotes, for Norway')
        if isinstance(code, str):
            check_code(code)
        return code

    @field_validator("columns")
    @classmethod
    def _plain(cls, columns: Mapping[str, Role]) -> Mapping[str, Role]:
        return dict(columns)

    @property
    def grid(self) -> Frequency:
        """The frequency in the data set's time zone."""
        return Frequency(self.frequency, self.time_zone)

    @property
    def covariates(self) -> tuple[str, ...]:
        """Past covariates in the declared order."""
        return self._with_role("past")

    @property
    def future(self) -> tuple[str, ...]:
        """Future covariates in the declared order."""
        return self._with_role("future")

    @property
    def static(self) -> tuple[str, ...]:
        """Static features in the declared order."""
        return self._with_role("static")

    def _with_role(self, wanted: Role) -> tuple[str, ...]:
        return tuple(column for column, role in self.columns.items() if role == wanted)

    def excluding(self, series: Iterable[str]) -> str:
        """``exclude: [...]`` as it is to be pasted into the catalog to leave out these series as well."""
        ids = [*self.exclude, *series]
        text = yaml.safe_dump(ids, default_flow_style=True, allow_unicode=True, width=math.inf)
        return f"exclude: {text.strip()}"

    def with_budget(self, budget: Budget | None) -> DataSet:
        """The same data set with another search budget."""
        if budget is None:
            return self
        return self.model_copy(update={"retrain": self.retrain.model_copy(update={"budget": budget})})

    def config_hash(self, version: str) -> str:
        """Twelve hexadecimal digits over everything that changes a night's result.

        Args:
            version: the package version, part of the identity.
        """
        config = self.model_dump(mode="json", exclude={"title", "licence"})
        config["retrain"].pop("schedule")
        text = json.dumps({"version": version, **config}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Catalog:
    """All data sets of one catalog file, by name."""

    path: Path
    data_sets: Mapping[str, DataSet]

    def get(self, name: str) -> DataSet:
        """The data set of that name.

        Raises:
            UnknownDataSet: there is none; names the nearest.
        """
        if name in self.data_sets:
            return self.data_sets[name]
        near = difflib.get_close_matches(name, self.data_sets, n=1, cutoff=0.5)
        hint = (
            f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(self.data_sets)) or 'none'}"
        )
        raise UnknownDataSet(f"{self.path}: no data set {name!r}; {hint}")


class _Loader(yaml.SafeLoader):
    """Refuses a key that a mapping holds twice, of which YAML silently takes the last."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        """The mapping as it is written: what a merge (``<<``) brings along is not yet in it."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            if key.value in lines:
                problem = f"the key {key.value!r} stands in line {lines[key.value]} already"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return node


def load_catalog(path: Path = SHIPPED) -> Catalog:
    """Read and validate a catalog file; opens no data.

    Raises:
        CatalogError: the file is missing, not YAML, or a key is wrong; names file, key and remedy.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CatalogError(
            f"{path}: no such catalog. Remedy: `nightcast data add FILE` writes one"
        ) from error
    except UnicodeDecodeError as error:
        raise CatalogError(f"{path}: not UTF-8 text. Remedy: save it as UTF-8") from error
    except OSError as error:
        raise CatalogError(
            f"{path}: cannot be read: {error.strerror}. Remedy: name a file that can, in NIGHTCAST_CATALOG"
        ) from error
    raw = parse_yaml(path, text)
    if raw is None:
        raise CatalogError(f"{path}: empty. Remedy: `nightcast data add FILE` writes a first entry")
    if not isinstance(raw, dict):
        raise CatalogError(f"{path}: expected data set names at the top level, found {type(raw).__name__}")
    return Catalog(path, {str(name): parse_data_set(path, str(name), entry) for name, entry in raw.items()})


def parse_yaml(path: Path, text: str) -> object:
    """A catalog's plain values.

    Raises:
        CatalogError: not YAML, or a key stands twice; names file, line and column, and quotes no value: it
            may be a secret.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = f"{where}{error.problem}"
    except yaml.YAMLError as error:
        problem = str(error).splitlines()[0]
    # Refused outside the block, so that YAML's own error, which quotes the line, is not chained.
    raise CatalogError(f"{path}: cannot be read as YAML: {problem}. Remedy: repair that line")


def parse_data_set(path: Path, name: str, entry: object) -> DataSet:
    """One validated catalog entry.

    Raises:
        CatalogError: a key is unknown, missing or of the wrong type; names file, key and remedy.
    """
    if not isinstance(entry, dict):
        raise CatalogError(f"{path}: {name}: expected keys and values, found {type(entry).__name__}")
    try:
        return DataSet.model_validate({**entry, "name": name, "folder": path.resolve().parent})
    except ValidationError as error:
        problems = [_explain(path, name, dict(e)) for e in error.errors()]
        raise CatalogError("\n".join(problems)) from error


def _explain(path: Path, name: str, error: dict[str, Any]) -> str:
    """One validation error as file, key, what is wrong and the remedy."""
    location = [str(part) for part in error["loc"]]
    key = ".".join([name, *location])
    if location == ["name"]:
        return f"{path}: {name!r}: a name is lower-case letters, digits and _, and begins with a letter"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(location[-1], _known_keys(), n=1)
        remedy = f"did you mean {near[0]!r}?" if near else "remove it"
        return f"{path}: {key}: unknown key; {remedy}"
    if error["type"] == "missing":
        return f"{path}: {key}: missing; add it"
    return f"{path}: {key}: {error['msg'].removeprefix('Value error, ')}{_found(error['input'])}"


def _found(value: object) -> str:
    """The wrong value where it is a plain one; a URL, or a block that may hold one, is shown nowhere."""
    if isinstance(value, Mapping | list | tuple) or "://" in str(value):
        return ""
    return f" (found {value!r})"


def _known_keys() -> list[str]:
    from data.retrain import Margins, SearchSpace

    models: tuple[type[Settings], ...] = (DataSet, Retrain, Budget, Margins, SearchSpace, Files, Query, Gaps)
    return sorted({key for model in models for key in model.model_fields})
