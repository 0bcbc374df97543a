"""The registry on a real MLflow store and a real ledger: versions, aliases, and what a person moves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from bundles import make_bundle
from mlflow import MlflowClient

from data.panel import Panel
from lstm.promotion.identity import Identity
from lstm.promotion.ledger import Champion, Ledger
from lstm.tracking.bundle import Bundle
from lstm.tracking.bundle_files import BundleError
from lstm.tracking.forecast import rows_of
from lstm.tracking.registry import Registry
from lstm.tracking.runs import Tracker
from lstm.tracking.server import NotFound, TrackingError, TrackingUnreachable, global_store

NIGHT = Identity("made", "2010-11-19T20:00:00Z", "0123456789ab")
NEXT = Identity("made", "2010-11-20T20:00:00Z", "0123456789ab")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, lived_in: Path) -> Path:
    """A folder with an MLflow database."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(lived_in / "mlflow.db", folder)
    return folder


@pytest.fixture
def tracker(store: Path) -> Tracker:
    return Tracker(f"sqlite:///{store}/mlflow.db", store / "artifacts")


@pytest.fixture
def registry(tracker: Tracker) -> Iterator[Registry]:
    """A registry without models."""
    yield Registry(tracker.uri)
    client = MlflowClient(tracker.uri, tracker.uri)
    for model in client.search_registered_models():
        client.delete_registered_model(model.name)


@pytest.fixture
def panel(make_panel: Callable[..., Panel]) -> Panel:
    return make_panel(steps=120)


@pytest.fixture
def bundle(panel: Panel) -> Bundle:
    return make_bundle(panel)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


def test_a_registration_leaves_the_environment_alone(
    registry: Registry, tracker: Tracker, panel: Panel, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What MLflow notes there would pass for a person's setting in the next night of the process."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = tracker.start_night(NIGHT)
    registry.register(bundle, NIGHT, run, panel)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere.example")
    with global_store(registry.uri):
        assert mlflow.get_tracking_uri() == registry.uri
    assert mlflow.get_tracking_uri() == os.environ["MLFLOW_TRACKING_URI"] == "http://elsewhere.example"


def versions(registry: Registry, count: int) -> list[str]:
    """Bare model versions, enough for aliases."""
    client = MlflowClient(registry.uri, registry.uri)
    client.create_registered_model("made")
    return [str(client.create_model_version("made", "file:///nothing").version) for _ in range(count)]


def promote(ledger: Ledger, version: str, expected: str | None) -> None:
    identity = Identity("made", NIGHT.as_of, f"night of {version}")
    ledger.begin_night(identity)
    ledger.promote(identity, version, expected, "It is better.")


def champion(ledger: Ledger) -> str | None:
    standing = ledger.champion("made")
    return None if standing is None else standing.version


def test_registering_and_loading(registry: Registry, tracker: Tracker, bundle: Bundle, panel: Panel) -> None:
    run = tracker.start_night(NIGHT)
    assert registry.aliases("made") == {}
    version = registry.register(bundle, NIGHT, run, panel, {"nightcast.trial": "3"})
    assert version == "1"
    assert registry.aliases("made") == {"challenger": "1"}
    loaded = registry.load("made", version)
    np.testing.assert_array_equal(loaded.forecast(panel).values_SHQ, bundle.forecast(panel).values_SHQ)
    model = MlflowClient(registry.uri, registry.uri).get_model_version("made", version)
    assert model.run_id == run
    assert model.tags["nightcast.night"] == NIGHT.key
    assert model.tags["nightcast.trial"] == "3"
    assert len(model.tags["nightcast.digest"]) == 64
    with global_store(registry.uri):
        served = mlflow.pyfunc.load_model("models:/made@challenger")
    rows = rows_of(panel, bundle.layout, bundle.history)
    np.testing.assert_array_equal(served.predict(rows)["q0.5"], bundle.forecast(panel).values_SHQ[0, :, 1])


def test_a_night_registers_its_bundle_once(
    registry: Registry, tracker: Tracker, bundle: Bundle, panel: Panel
) -> None:
    run = tracker.start_night(NIGHT)
    assert [registry.register(bundle, NIGHT, run, panel) for _ in range(2)] == ["1", "1"]
    # Trained again with another result: a version of its own, and the one that the night then means.
    assert registry.register(replace(bundle, serves="judged"), NIGHT, run, panel) == "2"
    assert registry.aliases("made")["challenger"] == "2"
    assert registry.register(bundle, NIGHT, run, panel) == "1"
    assert registry.aliases("made")["challenger"] == "1"
    assert registry.register(bundle, NEXT, run, panel) == "3"
    assert registry.aliases("made")["challenger"] == "3"


def test_what_cannot_be_loaded(registry: Registry, tracker: Tracker, bundle: Bundle, panel: Panel) -> None:
    with pytest.raises(NotFound):
        registry.load("made", "1")
    version = registry.register(bundle, NIGHT, tracker.start_night(NIGHT), panel)
    with pytest.raises(NotFound):
        registry.load("made", "2")
    client = MlflowClient(registry.uri, registry.uri)
    source = client.get_model_version_download_uri("made", version)
    files = Path(source.removeprefix("file://")) / "artifacts" / "bundle"
    path = files / "served.safetensors"
    intact = path.read_bytes()
    path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    with pytest.raises(BundleError, match="damaged or changed"):
        registry.load("made", version)
    path.write_bytes(intact)
    registry.load("made", version)
    client.set_model_version_tag("made", version, "nightcast.digest", "0" * 64)
    with pytest.raises(BundleError, match=r"bundle\.json.*damaged or changed"):
        registry.load("made", version)
    client.delete_model_version_tag("made", version, "nightcast.digest")
    with pytest.raises(TrackingError, match="Nightcast did not make it"):
        registry.load("made", version)
    client.set_model_version_tag("made", version, "nightcast.digest", "0" * 64)
    for file in files.iterdir():
        file.unlink()
    files.rmdir()
    with pytest.raises(NotFound, match="no artifact bundle in "):
        registry.load("made", version)


def test_aliases_follow_the_ledger(registry: Registry, ledger: Ledger) -> None:
    first, second = versions(registry, 2)
    assert registry.sync("made", ledger) == ()
    promote(ledger, first, None)
    assert registry.sync("made", ledger) == ("The alias `champion` was set to 1, as the ledger says.",)
    assert registry.sync("made", ledger) == ()
    promote(ledger, second, first)
    assert len(registry.sync("made", ledger)) == 2
    assert registry.aliases("made") == {"champion": second, "previous": first}
    ledger.rollback("made", "Worse.")
    registry.sync("made", ledger)
    assert registry.aliases("made") == {"champion": first}
    assert champion(ledger) == first
    ledger.retire("made", "Gone.")
    registry.sync("made", ledger)
    assert registry.aliases("made") == {}
    assert champion(ledger) is None
    assert registry.sync("made", ledger) == ()


def test_an_alias_moved_by_hand_is_a_decision(registry: Registry, ledger: Ledger) -> None:
    first, second, third = versions(registry, 3)
    promote(ledger, first, None)
    registry.sync("made", ledger)
    registry.set_alias("made", "champion", third)
    done = registry.sync("made", ledger)
    assert done[0] == "The alias `champion` was moved by hand from 1 to 3."
    assert registry.aliases("made") == {"champion": third, "previous": first}
    newest = ledger.decisions("made")[0]
    assert (newest.kind, newest.version, newest.previous, newest.reason) == ("adopted", third, first, done[0])
    promote(ledger, second, third)
    registry.sync("made", ledger)
    assert registry.aliases("made") == {"champion": second, "previous": third}


def test_a_promotion_while_another_process_syncs_was_not_made_by_hand(
    registry: Registry, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forecast syncs without the night's lease: the night may promote at any moment in between."""
    first, second = versions(registry, 2)
    promote(ledger, first, None)
    registry.sync("made", ledger)
    night, read = Registry(registry.uri), registry.aliases

    def read_and_wait(data_set: str) -> dict[str, str]:
        found = read(data_set)
        promote(ledger, second, first)
        night.sync("made", ledger)
        return found

    monkeypatch.setattr(registry, "aliases", read_and_wait)
    registry.sync("made", ledger)
    assert champion(ledger) == second
    assert [entry.kind for entry in ledger.decisions("made")] == ["promoted"] * 2


def test_a_sync_that_read_too_soon_notes_nothing(
    registry: Registry, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an alias that a person moves back afterwards would seem to lag behind."""
    first, second = versions(registry, 2)
    promote(ledger, first, None)
    registry.sync("made", ledger)
    read = ledger.champion

    def read_and_wait(data_set: str) -> Champion | None:
        found = read(data_set)
        monkeypatch.setattr(ledger, "champion", read)
        promote(ledger, second, first)
        Registry(registry.uri).sync("made", ledger)
        return found

    monkeypatch.setattr(ledger, "champion", read_and_wait)
    registry.sync("made", ledger)
    registry.set_alias("made", "champion", first)
    registry.sync("made", ledger)
    assert champion(ledger) == first
    assert [entry.kind for entry in ledger.decisions("made")] == ["adopted", "promoted", "promoted"]


def test_an_alias_set_by_hand_before_the_first_champion(registry: Registry, ledger: Ledger) -> None:
    (version,) = versions(registry, 1)
    registry.set_alias("made", "champion", version)
    assert registry.sync("made", ledger) == ("The alias `champion` was moved by hand from none to 1.",)
    assert champion(ledger) == version


def test_an_alias_that_lags_behind_is_repaired(registry: Registry, ledger: Ledger) -> None:
    """Killed between the ledger's promotion and the alias: nobody moved anything by hand."""
    first, second, third = versions(registry, 3)
    promote(ledger, first, None)
    registry.sync("made", ledger)
    promote(ledger, second, first)
    promote(ledger, third, second)
    registry.sync("made", ledger)
    assert registry.aliases("made") == {"champion": third, "previous": second}
    assert [entry.kind for entry in ledger.decisions("made")] == ["promoted"] * 3


def test_a_removed_alias_is_put_back(registry: Registry, ledger: Ledger) -> None:
    (version,) = versions(registry, 1)
    promote(ledger, version, None)
    registry.sync("made", ledger)
    registry.set_alias("made", "champion", None)
    registry.sync("made", ledger)
    assert registry.aliases("made") == {"champion": version}
    assert len(ledger.decisions("made")) == 1


def test_killed_between_alias_and_note(registry: Registry, ledger: Ledger) -> None:
    first, second = versions(registry, 2)
    promote(ledger, first, None)
    registry.sync("made", ledger)
    promote(ledger, second, first)
    registry.set_alias("made", "champion", second)
    registry.sync("made", ledger)
    assert (champion(ledger), ledger.alias("made")) == (second, second)
    assert [entry.kind for entry in ledger.decisions("made")] == ["promoted"] * 2


def test_a_champion_that_the_registry_lost(registry: Registry, ledger: Ledger) -> None:
    versions(registry, 1)
    promote(ledger, "7", None)
    with pytest.raises(NotFound, match="7"):
        registry.sync("made", ledger)


def test_unreachable_is_not_the_same_as_empty(registry: Registry, tmp_path: Path) -> None:
    assert registry.aliases("nothing") == {}
    path = tmp_path / "mlflow.db"
    path.write_text("This is no database, but it is long enough to be looked at." * 20)
    with pytest.raises(TrackingUnreachable):
        Registry(f"sqlite:///{path}")
