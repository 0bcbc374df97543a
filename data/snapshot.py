"""Snapshots: one immutable copy of a prepared panel, in a Parquet file named by what it holds.

The name is a SHA-256 over schema, ids, times, values and mask in a fixed order, never over the file's bytes:
another writer, compression or library version gives the same name to the same data.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data.calendar import Frequency
from data.errors import NightcastError
from data.files import replacing
from data.panel import Panel

FORMAT = 2
_KEY = "nightcast"
_REMEDY = "Remedy: delete the file; the next night writes it again"


class SnapshotError(NightcastError):
    """A snapshot that cannot be read, or does not hold what its name says."""


def digest(panel: Panel) -> str:
    """64 hexadecimal digits; equal for panels that hold the same data, and for those alone."""
    total = hashlib.sha256(json.dumps(_header(panel), sort_keys=True).encode())
    for values in (panel.values, panel.ahead):
        observed = ~np.isnan(values)
        # Adding zero turns -0.0 into 0.0; every missing value counts as 0, whatever its NaN's bits are.
        total.update((np.where(observed, values, 0.0) + 0.0).astype("<f8").tobytes())
        total.update(np.packbits(observed).tobytes())
    return total.hexdigest()


def save(panel: Panel, folder: Path) -> Path:
    """Write the panel as ``<digest>.parquet`` and return its path. Writing it again changes nothing.

    Args:
        folder: created where it does not exist.
    """
    path = folder / f"{digest(panel)}.parquet"
    if _holds_its_name(path):
        return path
    folder.mkdir(parents=True, exist_ok=True)
    lengths = np.diff(panel.offsets)
    steps = np.concatenate([np.arange(first, panel.n_steps) for first in panel.first_steps])
    frame = pl.DataFrame(
        {
            "series": np.repeat(np.array(panel.series, dtype=object), lengths),
            "time": pl.Series(panel.times()[steps]).dt.replace_time_zone("UTC"),
            **{name: panel.values[:, column] for column, name in enumerate(panel.columns)},
        },
        schema_overrides={"series": pl.String},
        nan_to_null=True,
    )
    with replacing(path) as temporary:
        pl.concat([frame, _ahead(panel)], how="diagonal").write_parquet(
            temporary, metadata={_KEY: json.dumps(_header(panel))}
        )
    return path


def load(path: Path) -> Panel:
    """The panel of a snapshot, checked against the digest in the file's name.

    Raises:
        SnapshotError: the file is missing, damaged, of another format, or holds something else.
    """
    try:
        header = json.loads(pl.read_parquet_metadata(path)[_KEY])
        if header["format"] != FORMAT:
            raise SnapshotError(
                f"{path}: snapshot format {header['format']}, this version reads {FORMAT}. {_REMEDY}"
            )
        panel = _panel(header, pl.read_parquet(path))
    except (OSError, pl.exceptions.PolarsError, KeyError, TypeError, ValueError) as error:
        raise SnapshotError(f"{path}: not a readable snapshot ({error}). {_REMEDY}") from error
    if digest(panel) != path.stem:
        raise SnapshotError(f"{path}: holds other data than its name says ({digest(panel)}). {_REMEDY}")
    return panel


def _holds_its_name(path: Path) -> bool:
    """True for a snapshot that is there and intact; a damaged one is to be written again."""
    if not path.exists():
        return False
    try:
        load(path)
    except SnapshotError:
        return False
    return True


def _ahead(panel: Panel) -> pl.DataFrame:
    """The rows after the last step: future covariates, series by series."""
    times = panel.frequency.times(panel.frequency.shift(panel.as_of, 1), panel.n_ahead)
    ahead = panel.ahead.reshape(len(panel.series) * panel.n_ahead, len(panel.future))
    return pl.DataFrame(
        {
            "series": np.repeat(np.array(panel.series, dtype=object), panel.n_ahead),
            "time": pl.Series(np.tile(times, len(panel.series)), dtype=pl.Datetime("us", "UTC")),
            **{name: ahead[:, column] for column, name in enumerate(panel.future)},
        },
        schema_overrides={"series": pl.String},
        nan_to_null=True,
    )


def _header(panel: Panel) -> dict[str, Any]:
    """Schema, ids, times and static features: everything of a panel but its values."""
    return {
        "format": FORMAT,
        "data_set": panel.data_set,
        "frequency": panel.frequency.text,
        "time_zone": panel.frequency.time_zone,
        "target": panel.target,
        "covariates": list(panel.covariates),
        "future": list(panel.future),
        "ahead": panel.n_ahead,
        "static": {name: list(values) for name, values in panel.static.items()},
        "holidays": panel.holidays,
        "series": list(panel.series),
        "start": str(panel.start.astype("datetime64[us]")),
        "first_steps": panel.first_steps.tolist(),
        "offsets": panel.offsets.tolist(),
    }


def _panel(header: dict[str, Any], frame: pl.DataFrame) -> Panel:
    """The panel of a header and its rows; what is known ahead comes last."""
    names = [header["target"], *header["covariates"], *header["future"]]
    rows = frame.select(pl.col(names).fill_null(float("nan"))).to_numpy(order="c").astype(np.float64)
    count = header["offsets"][-1]
    future = len(header["future"])
    ahead = rows[count:, len(names) - future :]
    return Panel(
        data_set=header["data_set"],
        frequency=Frequency(header["frequency"], header["time_zone"]),
        target=header["target"],
        covariates=tuple(header["covariates"]),
        series=tuple(header["series"]),
        start=np.datetime64(header["start"], "us"),
        first_steps=np.array(header["first_steps"], dtype=np.int64),
        offsets=np.array(header["offsets"], dtype=np.int64),
        values=rows[:count],
        future=tuple(header["future"]),
        ahead=ahead.reshape(len(header["series"]), header["ahead"], future),
        static={name: tuple(values) for name, values in header["static"].items()},
        holidays=header["holidays"],
    )
