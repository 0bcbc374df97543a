"""A catalog entry of four keys, and what it is parsed to with others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.catalog import DataSet, parse_data_set
from data.errors import CatalogError

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
