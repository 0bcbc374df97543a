"""CSV as it comes: what is unambiguous is fixed and reported, everything else refused."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import delimited
from data.delimited import numbers, scan
from data.errors import DataRefused
from data.findings import Finding
from data.layout import Layout

LAYOUT = Layout("made", "when", None, "load", ("heat",), "UTC")
TEXT = "when,load,heat,note\n2024-01-01,1.5,3,x\n2024-01-02,2.5,4,y\n"
ROW = "2024-01-03,1.5,3,x\n"
ROWS = [["2024-01-01", "1.5", "3", "x"], ["2024-01-02", "2.5", "4", "y"]]


def look(tmp_path: Path, content: bytes | str) -> tuple[list[list[str]], list[str]]:
    """The rows of a file with this content, all text, and the findings."""
    path = tmp_path / "rows.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    copies = tmp_path / "copies"
    copies.mkdir(exist_ok=True)
    found = scan(path, LAYOUT, copies)
    frame = found.frame.select("when", "load", "heat", "note").collect()
    return [list(row) for row in frame.iter_rows()], [str(finding) for finding in found.findings]


def test_a_plain_file_is_read_as_text_without_a_finding(tmp_path: Path) -> None:
    assert look(tmp_path, TEXT) == (ROWS, [])
    assert look(tmp_path, TEXT.rstrip("\n")) == (ROWS, [])
    assert look(tmp_path, TEXT.replace("\n", "\r\n")) == (ROWS, [])


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_another_separator_is_told_by_the_declared_columns(tmp_path: Path, separator: str) -> None:
    rows, findings = look(tmp_path, TEXT.replace(",", separator))
    assert rows == ROWS
    assert findings == [f"rows.csv: the separator is {separator!r}, not a comma"]


def test_commas_within_another_separators_header_do_not_mislead(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("when;load;heat;a,b,c,d,e\n2024-01-01;1;2;x\n")
    assert scan(path, LAYOUT, tmp_path).frame.collect_schema().names()[:3] == ["when", "load", "heat"]


def test_a_file_that_is_not_utf8_is_to_be_saved_as_such(tmp_path: Path) -> None:
    """Wherever in it the letter stands, in a column that nobody uses, too."""
    path = tmp_path / "rows.csv"
    for text in (TEXT.replace("y", "ü"), TEXT.replace("note", "Straße"), TEXT + ROW * 100_000 + "a,1,2,ü\n"):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(DataRefused, match=r"is not UTF-8 text, but perhaps Latin-1. .* save it as UTF-8"):
            scan(path, LAYOUT, tmp_path)


def test_blanks_around_column_names_are_ignored(tmp_path: Path) -> None:
    assert look(tmp_path, TEXT.replace(",", " , ", 3))[0] == ROWS


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (codecs.BOM_UTF8 + TEXT.encode(), "rows.csv: a byte order mark was skipped"),
        (TEXT.encode("utf-16"), "rows.csv: read as UTF-16, not UTF-8"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "rows.csv: read as UTF-16, not UTF-8"),
        (TEXT.encode("utf-16-le"), "rows.csv: read as UTF-16, not UTF-8"),
        (TEXT.encode("utf-16-be"), "rows.csv: read as UTF-16, not UTF-8"),
    ],
)
def test_marks_and_utf16_are_read_and_reported(tmp_path: Path, content: bytes, finding: str) -> None:
    assert look(tmp_path, content) == (ROWS, [finding])


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files_are_read(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    assert look(tmp_path, pack(TEXT.encode())) == (ROWS, [])
    assert look(tmp_path, pack(TEXT.encode("utf-16")))[0] == ROWS


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (codecs.BOM_UTF8, "is empty"),
        (TEXT[:-3], "truncated: its last row has 3 fields, not 4: '2024-01-02,2.5,4'"),
        (TEXT + "2024-01", "truncated: its last row has 1 fields, not 4: '2024-01'"),
        (TEXT.replace("1.5,", "1,5,"), "row 2 has 5 fields, not 4: '2024-01-01,1,5,3,x'"),
        (TEXT.encode() + bytes(20), "holds NUL bytes"),
        (TEXT.encode("utf-16")[:-1], "is torn UTF-16"),
        (gzip.compress(TEXT.encode(), mtime=0)[:-12], "cannot be decompressed"),
        (lzma.compress(TEXT.encode())[:-12], "cannot be decompressed"),
        (TEXT.replace("note", "load"), "header names the column twice"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, content: bytes | str, problem: str) -> None:
    with pytest.raises(DataRefused, match=problem) as refused:
        look(tmp_path, content)
    assert "rows" in refused.value.problem
    assert refused.value.remedy


def test_a_quoted_last_field_over_two_lines_is_no_truncation(tmp_path: Path) -> None:
    assert look(tmp_path, TEXT.rstrip("y\n") + '"one\ntwo"\n')[0][1][3] == "one\ntwo"


def test_kinds_are_those_of_the_first_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(TEXT)
    assert scan(path, LAYOUT, tmp_path).kinds == {
        "when": "text",
        "load": "number",
        "heat": "number",
        "note": "text",
    }


def convert(findings: list[Finding] | None = None, **columns: list[str | None]) -> pl.DataFrame:
    frame = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String)).lazy()
    return numbers(frame, list(columns), LAYOUT, [] if findings is None else findings).collect()


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_survive_as_they_were_written(values: list[float]) -> None:
    assert convert(load=[f" {value!r} " for value in values])["load"].to_list() == values


@given(st.lists(st.decimals(-9999, 9999, places=2), min_size=1))
def test_a_decimal_comma_is_a_decimal_point(values: list[object]) -> None:
    findings: list[Finding] = []
    frame = convert(findings, load=[str(value).replace(".", ",") for value in values])
    assert frame["load"].to_list() == [float(str(value)) for value in values]
    (finding,) = findings
    assert (finding.column, finding.count) == ("load", len(values))


def test_missing_values_may_be_written_in_the_usual_ways() -> None:
    column = [*delimited.MISSING, None, "  ", "1"]
    assert convert(load=column)["load"].to_list() == [None] * (len(column) - 1) + [1.0]


def test_one_certain_column_settles_the_comma_for_all() -> None:
    frame = convert(load=["1,234", "2,500", "-7"], heat=["0,418", "1,000", "NA"])
    assert frame["load"].to_list() == [1.234, 2.5, -7.0]
    assert frame["heat"].to_list() == [0.418, 1.0, None]


@pytest.mark.parametrize("columns", [{"load": ["1,234", "20"]}, {"load": ["1,2", "3"], "heat": ["1.5", "2"]}])
def test_an_ambiguous_comma_is_refused(columns: dict[str, list[str | None]]) -> None:
    with pytest.raises(DataRefused, match="decimal comma or a thousands separator") as refused:
        convert(**columns)
    assert refused.value.column == "load"
    assert columns["load"][0] in refused.value.problem  # type: ignore[operator]


def test_a_date_with_points_in_a_text_settles_nothing() -> None:
    frame = convert(load=["1,5", "2,25"], note=["checked 01.02.2024", None], opened=["3.10.1990", "1.1.2001"])
    assert frame["load"].to_list() == [1.5, 2.25]
    assert frame["opened"].to_list() == ["3.10.1990", "1.1.2001"]
    with pytest.raises(DataRefused, match="decimal comma or a thousands separator"):
        convert(load=["1,5", "2.25"])


def test_text_stays_text() -> None:
    frame = convert(load=["1,5", "n/k"], heat=["1", "2"])
    assert frame["load"].to_list() == ["1,5", "n/k"]
    assert frame["heat"].to_list() == [1.0, 2.0]
