"""The contest of a night: trainings of a challenger's networks, interrupted and taken up again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import make_bundle
from nights import House

from flows import preparation
from flows.contest import _beside_linear, find_champion, train_challenger
from flows.night import Night, open_night
from lstm.evaluation.conformal import Calibration
from lstm.evaluation.scores import Scores
from lstm.promotion.gate import Decision
from lstm.promotion.identity import to_iso
from lstm.promotion.judge import Verdict
from lstm.scaling import Scaler
from lstm.search.space import at_centre
from lstm.search.study import Chosen
from lstm.tracking.bundle import Bundle
from lstm.tracking.registry import Registry
from lstm.training.recipe import Recipe


class Interrupted(BaseException):
    """Stands for whatever ends a process."""


class Stage:
    """How far the trainings came; may be interrupted after so many epochs."""

    def __init__(self, last: int = 100) -> None:
        self.note = ""
        self.told: list[tuple[int, int]] = []
        self._last = last

    def advance(self, done: int, total: int, note: str) -> None:
        self.told.append((done, total))
        if done == self._last:
            raise Interrupted


@pytest.fixture
def night(tmp_path: Path) -> Night:
    house = House(tmp_path)
    house.declare("made")
    house.write("made", 24 * 20)
    return open_night(house.settings, "made")


def members(night: Night, prepared: preparation.Prepared) -> tuple[Chosen, ...]:
    """A network of each normalisation, each of two epochs."""
    panel, last = prepared.panel, prepared.splits.train.last
    horizon = night.data_set.retrain.horizon
    model, training = at_centre(night.data_set, Scaler.fit(panel, last).scale(panel, horizon))
    recipes = [
        Recipe(replace(model, normalisation=kind), training, 2) for kind in ("last_value", "none", "instance")
    ]
    calibration = Calibration(np.ones((horizon, len(model.quantiles))), 0.0, 1)
    return tuple(
        Chosen(number, 0.5, recipe, calibration, {}, "")
        for number, recipe in zip((3, 0, 2), recipes, strict=True)
    )


def test_an_ensemble_that_is_interrupted_goes_on_with_the_network_that_it_was_in(night: Night) -> None:
    prepared = preparation.prepare(night)
    best, stage = members(night, prepared), Stage(last=3)
    with pytest.raises(Interrupted):
        train_challenger(night, prepared, best, stage)
    folder = night.settings.checkpoints / night.study
    assert {path.name for path in folder.iterdir()} == {"judged-3.safetensors", "judged-0.safetensors"}
    written = (folder / "judged-3.safetensors").stat().st_mtime_ns
    stage = Stage()
    resumed = train_challenger(night, prepared, best, stage)
    assert (folder / "judged-3.safetensors").stat().st_mtime_ns == written
    # The epochs before are told again.
    assert stage.told == [(number, 6) for number in range(1, 7)]
    assert stage.note == "2, 2, 2 epochs"
    night.study = "another"
    whole = train_challenger(night, prepared, best, Stage())
    for one, other in zip(resumed.judged, whole.judged, strict=True):
        assert one.state.keys() == other.state.keys()
        assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)


def test_a_champion_that_has_seen_what_it_would_be_judged_on_is_refused_before_the_search(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a back-dated night, or where the judge span has been lengthened."""
    prepared = preparation.prepare(night)
    panel, judged = prepared.panel, prepared.splits.judge
    made = make_bundle(panel)
    monkeypatch.setattr(Bundle, "check", lambda self, data_set: None)
    monkeypatch.setattr(Registry, "sync", lambda self, data_set, ledger: ())
    night.ledger.adopt("made", "1", None, "By hand.")
    for last, problem in ((judged.first - 1, None), (judged.last, "0 of 72 steps are left to judge on")):
        until = to_iso(panel.frequency.shift(panel.start, last))
        bundle = replace(made, judged=replace(made.judged, until=until))
        monkeypatch.setattr(Registry, "load", lambda self, data_set, version, bundle=bundle: bundle)
        reigning = find_champion(night, prepared)
        assert (reigning.problem is None) == (problem is None)
        assert problem is None or problem in str(reigning.problem)


def test_a_promotion_beside_a_better_linear_model_says_so() -> None:
    decision = Decision("promoted", ("MAE 0.1220 beats the seasonal naive's 0.3049.",))
    own = Scores(0.122, *[0.1] * 7, 100, True, (0.122,), (0.8,))
    for linear, said in (
        (0.063, ("A linear model does better, though: MAE 0.0630.",)),
        (0.122, ()),
        (0.2, ()),
    ):
        scores = {"challenger": own, "linear": replace(own, mae=linear)}
        verdict = Verdict(None, {}, scores)  # type: ignore[arg-type]
        assert _beside_linear(decision, verdict) == replace(decision, reasons=(*decision.reasons, *said))
        kept = replace(decision, ending="kept")
        assert _beside_linear(kept, verdict) == kept
