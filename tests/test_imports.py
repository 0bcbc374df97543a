"""Importing without garbage collection."""

from __future__ import annotations

import gc
import importlib
from pathlib import Path

import pytest

from flows.imports import importing


def test_what_is_imported_is_looked_through_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_for_a_test.py").write_text("made = [[number] for number in range(1000)]\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = gc.get_freeze_count()
    with importing():
        assert not gc.isenabled()
        module = importlib.import_module("made_for_a_test")
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(module.made)


def test_where_nothing_is_imported_all_stays_as_it_was() -> None:
    before = gc.get_freeze_count()
    with pytest.raises(ImportError), importing():
        importlib.import_module("there_is_no_such_module")
    with importing():
        assert importlib.import_module("pytest") is pytest
    assert gc.isenabled()
    # What was frozen before may have ended since.
    assert gc.get_freeze_count() <= before


def test_who_collects_no_garbage_goes_on_so() -> None:
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
