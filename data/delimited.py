"""CSV files as they come: compressed or not, UTF-8 or UTF-16, any usual separator, a decimal comma.

Every column is read as text, so that reading never fails on a value; `numbers` then turns the numeric
ones into numbers where all of their text is one.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import lzma
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from polars.exceptions import ComputeError

from data.findings import Finding
from data.frame import kind
from data.layout import Layout

SEPARATORS = (",", ";", "\t", "|")
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "null", "NULL", "None", "nan", "NaN", "NAN")

_HEAD = 1 << 16
_COMPRESSED: dict[bytes, type[gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True)
class Delimited:
    """A CSV file that is open for reading.

    Args:
        frame: all columns as text.
        kinds: every column and what it holds, by the first rows.
        findings: what was fixed.
    """

    frame: pl.LazyFrame
    kinds: dict[str, str]
    findings: tuple[Finding, ...]


def scan(path: Path, layout: Layout, folder: Path) -> Delimited:
    """Look at a CSV file and open it lazily.

    Args:
        path: the file.
        layout: the declared columns, by which the separator is told.
        folder: a temporary folder for a decompressed or recoded copy; must outlive the frame.

    Raises:
        DataRefused: the file is empty, is not text, or a row has fewer or more fields than the header,
            as the last one of a truncated file.
    """
    findings: list[Finding] = []
    path = _plain(path, layout, folder, findings)
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(codecs.BOM_UTF8):
        findings.append(Finding(f"{path.name}: a byte order mark was skipped"))
    head = head.removeprefix(codecs.BOM_UTF8)
    if not head.strip():
        layout.refuse(f"{path} is empty.", remedy="write the file again, with a header and rows.")
    header = head.splitlines()[0].decode("utf-8", errors="replace")
    separator = _separator(header, layout)
    if separator != ",":
        findings.append(Finding(f"{path.name}: the separator is {separator!r}, not a comma"))
    columns = [column.strip() for column in _fields(header, separator)]
    for column in layout.columns:
        if columns.count(column) > 1:
            layout.refuse(f"{path}: the header names the column twice.", column=column, remedy="rename one.")
    _refuse_uneven(path, layout, separator, len(columns))
    frame = pl.scan_csv(path, separator=separator, infer_schema=False, with_column_names=_strip)
    sample = pl.scan_csv(path, separator=separator, infer_schema_length=1000, with_column_names=_strip)
    kinds = {name: kind(dtype) for name, dtype in sample.collect_schema().items()}
    return Delimited(frame, kinds, tuple(findings))


def numbers(
    frame: pl.LazyFrame, columns: Sequence[str], layout: Layout, findings: list[Finding]
) -> pl.LazyFrame:
    """Turn text columns into Float64 where every value is a number, by point or by comma.

    A column with a value that is neither stays text, with null for what stands for a missing value.

    Raises:
        DataRefused: commas that may be decimal commas or thousands separators alike.
    """
    clean = {column: _clean(column) for column in columns}
    facts = frame.select(
        expr.alias(f"{column}:{name}")
        for column, text in clean.items()
        for name, expr in _counts(text).items()
    ).collect(engine="streaming")
    fact = {name: facts[name].item() for name in facts.columns}
    commas = [c for c in columns if fact[f"{c}:bad"] and fact[f"{c}:bad"] == fact[f"{c}:comma"]]
    plain = [column for column in columns if not fact[f"{column}:bad"]]
    points = any(fact[f"{column}:point"] for column in (*plain, *commas))
    if commas and (points or not any(fact[f"{column}:certain"] for column in commas)):
        value = fact[f"{commas[0]}:example"]
        layout.refuse(
            f"The comma in {value!r} may be a decimal comma or a thousands separator.",
            column=commas[0],
            remedy="write numbers with a decimal point and without thousands separators.",
        )
    for column in commas:
        problem = "a decimal comma was read as a decimal point"
        findings.append(Finding(problem, column=column, count=fact[f"{column}:comma"]))
    return frame.with_columns(
        *(clean[column].alias(column) for column in columns if column not in (*plain, *commas)),
        *(clean[column].cast(pl.Float64).alias(column) for column in plain),
        *(clean[column].str.replace(",", ".").cast(pl.Float64).alias(column) for column in commas),
    )


def _clean(column: str) -> pl.Expr:
    """Text without surrounding blanks; null where it stands for a missing value."""
    text = pl.col(column).str.strip_chars()
    return pl.when(~text.is_in(MISSING)).then(text)


def _counts(text: pl.Expr) -> dict[str, pl.Expr]:
    """How many values are no number, have one comma, surely have a decimal comma, have a point."""
    bad = text.is_not_null() & text.cast(pl.Float64, strict=False).is_null()
    comma = text.str.contains(r"^[+-]?\d*,\d+(?:[eE][+-]?\d+)?$")
    # 1,234 may be a thousand; 0,234 and 1234,567 and 1,23 may not.
    certain = comma & ~text.str.contains(r"^[+-]?[1-9]\d{0,2},\d{3}$")
    return {
        "bad": bad.sum(),
        "comma": comma.sum(),
        "certain": certain.sum(),
        "point": text.str.contains(r"\d\.\d").sum(),
        "example": text.filter(bad).min(),
    }


def _plain(path: Path, layout: Layout, folder: Path, findings: list[Finding]) -> Path:
    """The file itself, or a copy that is decompressed and UTF-8."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    for magic, compressed in _COMPRESSED.items():
        if head.startswith(magic):
            copy = _place(folder, path)
            try:
                with compressed(path) as packed, copy.open("wb") as plain:
                    shutil.copyfileobj(packed, plain, _HEAD)
            except (EOFError, OSError, lzma.LZMAError) as error:
                layout.refuse(f"{path} cannot be decompressed: {error}.", remedy="write the file again.")
            return _plain(copy, layout, folder, findings)
    encoding = next((name for mark, name in _UTF16.items() if head.startswith(mark)), _bare_utf16(head))
    if encoding is None:
        return path
    copy = _place(folder, path)
    try:
        with (
            path.open(encoding=encoding, newline="") as coded,
            copy.open("w", encoding="utf-8", newline="") as plain,
        ):
            shutil.copyfileobj(coded, plain, _HEAD)
    except UnicodeError as error:
        layout.refuse(f"{path} is torn UTF-16: {error}.", remedy="write the file again, as UTF-8.")
    findings.append(Finding(f"{path.name}: read as UTF-16, not UTF-8"))
    return copy


def _place(folder: Path, path: Path) -> Path:
    """Where a copy of a file goes: under its own name, so that findings name the file."""
    place = folder / str(len(list(folder.iterdir())))
    place.mkdir()
    return place / path.name


def _bare_utf16(head: bytes) -> str | None:
    """UTF-16 without a byte order mark: in plain text, every other byte of the header is NUL."""
    for encoding, start in (("utf-16-le", 1), ("utf-16-be", 0)):
        if len(head) >= 8 and not any(head[start:40:2]) and all(head[1 - start : 40 : 2]):
            return encoding
    return None


def _separator(header: str, layout: Layout) -> str:
    """The separator under which the header holds most declared columns, then most columns."""

    def score(separator: str) -> tuple[int, int]:
        fields = [field.strip() for field in _fields(header, separator)]
        return len(set(fields) & set(layout.columns)), len(fields)

    return max(SEPARATORS, key=score)


def _fields(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator), [])


def _strip(columns: list[str]) -> list[str]:
    return [column.strip() for column in columns]


def _refuse_uneven(path: Path, layout: Layout, separator: str, columns: int) -> None:
    """Refuse NUL bytes, and a row with fewer or more fields than the header, which would shift or lose
    values. Rows with quotes are left out; where quotes span lines, nothing is counted."""
    remedy = "write the file again; to keep half-written files away, write elsewhere and rename."
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _HEAD))
        if b"\0" in file.read():
            layout.refuse(f"{path} holds NUL bytes: it is truncated or not text.", remedy=remedy)
    lines = pl.scan_csv(
        path,
        has_header=False,
        separator="\x1f",  # found in no text, so that a row is one field
        quote_char=None,
        infer_schema=False,
        new_columns=["text"],
        row_index_name="number",
        truncate_ragged_lines=True,
    )
    text = pl.col("text")
    quotes = text.str.count_matches('"', literal=True)
    fields = text.str.count_matches(separator, literal=True) + 1
    uneven = (quotes == 0) & (fields != columns) & (text.str.strip_chars() != "")
    try:
        facts, found = pl.collect_all(
            [
                lines.select((quotes % 2 == 1).any(), pl.col("number").max()),
                lines.filter(uneven)
                .bottom_k(1, by="number")
                .select("number", "text", fields.alias("fields")),
            ],
            engine="streaming",
        )
    except ComputeError as error:
        if "utf-8" not in str(error):
            raise
        layout.refuse(f"{path} is not UTF-8 text, but perhaps Latin-1.", remedy="save it as UTF-8.")
    spans, last = facts.row(0)
    if spans or found.is_empty():
        return
    number, row, count = found.row(0)
    end = "it is truncated: its last row" if number == last else f"row {number + 1}"
    problem = f"{path}: {end} has {count} fields, not {columns}: {row[:80]!r}."
    layout.refuse(problem, remedy=remedy)
