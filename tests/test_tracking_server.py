"""Runs and registry through a real MLflow server, over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
from bundles import make_bundle
from servers import Up

from data.panel import Panel
from lstm.promotion.identity import Identity
from lstm.promotion.ledger import Ledger
from lstm.tracking.forecast import rows_of
from lstm.tracking.registry import Registry
from lstm.tracking.runs import Tracker
from lstm.tracking.server import NotFound, global_store

pytestmark = pytest.mark.slow

NIGHT = Identity("made", "2010-11-19T20:00:00Z", "0123456789ab")


def test_a_night_through_a_server(up: Up, tmp_path: Path, make_panel: Callable[..., Panel]) -> None:
    address = up.addresses.mlflow
    panel = make_panel(steps=120)
    bundle = make_bundle(panel)
    tracker, registry = Tracker(address, tmp_path / "unused"), Registry(address)
    run = tracker.start_night(NIGHT)
    assert tracker.start_night(NIGHT) == run
    assert tracker.link(run) == f"{address}/#/experiments/{tracker.run(run).info.experiment_id}/runs/{run}"
    tracker.log_text(run, "{}", "night.json")
    assert tracker.read_artifact(run, "night.json") == "{}"
    with pytest.raises(NotFound):
        tracker.read_artifact(run, "nothing.json")
    assert registry.aliases("made") == {}
    with pytest.raises(NotFound):
        registry.load("made", "1")
    assert [registry.register(bundle, NIGHT, run, panel) for _ in range(2)] == ["1", "1"]
    loaded = registry.load("made", "1")
    np.testing.assert_array_equal(loaded.forecast(panel).values_SHQ, bundle.forecast(panel).values_SHQ)
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.begin_night(NIGHT)
    ledger.promote(NIGHT, "1", None, "")
    registry.sync("made", ledger)
    assert registry.aliases("made") == {"challenger": "1", "champion": "1"}
    with global_store(address):
        served = mlflow.pyfunc.load_model("models:/made@champion")
    rows = rows_of(panel, bundle.layout, bundle.history)
    assert len(served.predict(rows)) == bundle.recipe.model.horizon
    tracker.end(run, "FINISHED")
    assert not (tmp_path / "unused").exists()
