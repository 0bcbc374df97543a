"""A bundle's files: what is loaded is what was saved, and nothing damaged is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import LOOKBACK, MakePanel, make_bundle, two_series
from hypothesis import given, settings
from hypothesis import strategies as st

from data.panel import Panel
from lstm.tracking.bundle_files import BundleError, load, save


@pytest.fixture
def panel(make_panel: MakePanel) -> Panel:
    return two_series(make_panel)


@pytest.mark.parametrize("members", [1, 3])
def test_saved_and_loaded_is_the_same(panel: Panel, tmp_path: Path, members: int) -> None:
    bundle = make_bundle(panel, series="id", members=members)
    digest = save(bundle, tmp_path)
    loaded = load(tmp_path, digest)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bundle.json",
        "judged.safetensors",
        "served.safetensors",
    ]
    for name in ("layout", "frequency", "seasons", "non_negative", "serves", "code_version"):
        assert getattr(loaded, name) == getattr(bundle, name), name
    for which in ("judged", "served"):
        before, after = bundle.twin(which), loaded.twin(which)
        assert after.until == before.until
        assert after.scaler.series == before.scaler.series
        np.testing.assert_array_equal(after.scaler.loc_SC, before.scaler.loc_SC)
        np.testing.assert_array_equal(after.scaler.scale_SC, before.scaler.scale_SC)
        assert len(after.weights) == len(before.weights) == members
        for one, other in zip(after.weights, before.weights, strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one)
    for made, kept in zip(bundle.members, loaded.members, strict=True):
        assert kept.recipe == made.recipe
        np.testing.assert_array_equal(kept.calibration.factor_HQ, made.calibration.factor_HQ)
        assert kept.calibration.exponent == made.calibration.exponent
        assert kept.calibration.windows == made.calibration.windows == 100
    assert (loaded.data_set, loaded.quantiles, loaded.lookback) == ("made", (0.1, 0.5, 0.9), LOOKBACK)
    np.testing.assert_array_equal(loaded.forecast(panel).values_SHQ, bundle.forecast(panel).values_SHQ)


def test_digest_is_of_the_content(panel: Panel, tmp_path: Path) -> None:
    bundle = make_bundle(panel)
    assert save(bundle, tmp_path / "a") == save(bundle, tmp_path / "b")
    assert save(replace(bundle, serves="judged"), tmp_path / "c") != save(bundle, tmp_path / "a")
    swapped = replace(bundle, served=replace(bundle.served, weights=bundle.judged.weights))
    assert save(swapped, tmp_path / "d") != save(bundle, tmp_path / "a")


@pytest.mark.parametrize("name", ["bundle.json", "judged.safetensors", "served.safetensors"])
def test_every_changed_byte_is_found(panel: Panel, tmp_path: Path, name: str) -> None:
    digest = save(make_bundle(panel), tmp_path)
    path = tmp_path / name
    intact = path.read_bytes()

    @given(st.integers(0, len(intact) - 1), st.integers(1, 255))
    @settings(max_examples=20)
    def change(place: int, by: int) -> None:
        changed = bytearray(intact)
        changed[place] ^= by
        path.write_bytes(changed)
        with pytest.raises(BundleError, match="damaged or changed"):
            load(tmp_path, digest)

    change()
    path.unlink()
    with pytest.raises(BundleError, match=f"{name}: cannot be read"):
        load(tmp_path, digest)


def test_manifests_that_cannot_be_read(panel: Panel, tmp_path: Path) -> None:
    save(make_bundle(panel), tmp_path)
    path = tmp_path / "bundle.json"
    raw = json.loads(path.read_bytes())
    [member] = raw["members"]
    model = {**member["recipe"]["model"], "horizon": 1}
    other = {
        "recipe": {**member["recipe"], "model": model},
        "calibration": {**member["calibration"], "factor": [[1.0, 1.0, 1.0]]},
    }
    wrong = [{**member["calibration"], "factor": factor} for factor in ([[1.0]], [[-1.0]])]
    for change, words in (
        (
            {"format": 1},
            "bundle format 1, this version reads 4. Remedy: nightcast retire made; the next night",
        ),
        ({"format": 3}, "bundle format 3, this version reads 4"),
        ({"members": [{**member, "calibration": {}}]}, "not a readable bundle .*factor"),
        ({"members": [{**member, "calibration": wrong[0]}]}, "not a readable bundle .*calibration of"),
        ({"members": [{**member, "calibration": wrong[1]}]}, "not a readable bundle .*at least 0"),
        ({"members": [{**member, "recipe": {}}]}, "not a readable bundle .*model"),
        ({"members": []}, "not a readable bundle .*members of 0 horizons"),
        ({"members": [member, other]}, "not a readable bundle .*members of 2 horizons or quantiles"),
        ({"members": [member, member]}, "not a readable bundle .*no weights of member 1"),
        ({"serves": "neither"}, "not a readable bundle .*neither"),
        ({"files": {}}, "not a readable bundle .*judged.safetensors"),
    ):
        path.write_text(json.dumps({**raw, **change}))
        with pytest.raises(BundleError, match=words):
            load(tmp_path)
    path.write_text("{")
    with pytest.raises(BundleError, match="not a readable bundle"):
        load(tmp_path)
