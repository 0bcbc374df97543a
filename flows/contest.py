"""Challenger against champion: trained, judged, registered, and promoted or not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version as package_version
from typing import Any

import numpy as np

from data.catalog import DataSet
from data.errors import DataRefused
from data.layout import layout_of
from data.splits import Span
from flows.night import Night, begin
from flows.preparation import Prepared
from flows.progress import Stage
from lstm.models.forecaster import ForecasterConfig
from lstm.promotion.gate import Decision, Evidence, choose_weights, decide
from lstm.promotion.identity import to_iso
from lstm.promotion.judge import Candidate, Verdict, judge, unseen
from lstm.search.study import Chosen
from lstm.tracking.bundle import Bundle, Member, Twin
from lstm.tracking.bundle_files import BundleError
from lstm.tracking.server import NotFound
from lstm.training.checkpoint import EpochLoss
from lstm.training.device import choose_device, set_threads
from lstm.training.refit import Trained, refit


@dataclass(frozen=True)
class Challenger:
    """The night's candidate.

    Attributes:
        members: the trial that the search chose; for an ensemble one of each normalisation, the best of all
            first.
        judged: the weights of each, whose training ended before the judge span.
    """

    members: tuple[Chosen, ...]
    judged: tuple[Trained, ...]


@dataclass(frozen=True)
class Reigning:
    """The champion as the night found it.

    Attributes:
        version: None where there is none.
        bundle: None where there is none, or where it cannot be loaded.
        problem: why it cannot be loaded or judged.
    """

    version: str | None = None
    bundle: Bundle | None = None
    problem: str | None = None


def find_champion(night: Night, prepared: Prepared) -> Reigning:
    """The champion that the challenger will have to beat; the alias is put right first."""
    data_set = night.data_set
    night.registry.sync(data_set.name, night.ledger)
    champion = night.ledger.champion(data_set.name)
    if champion is None:
        return Reigning()
    try:
        bundle = night.registry.load(data_set.name, champion.version)
    except (BundleError, NotFound) as error:
        return Reigning(champion.version, None, f"The champion cannot be loaded: {error}")
    return Reigning(champion.version, bundle, _unfit(bundle, data_set, prepared))


def train_challenger(
    night: Night, prepared: Prepared, members: tuple[Chosen, ...], stage: Stage
) -> Challenger:
    """The members' recipes, each trained on everything before the judge span."""
    splits = prepared.splits
    before = Span(splits.train.first, splits.validation.last)
    return Challenger(members, _train(night, prepared, members, before, "judged", stage))


def judge_challenger(
    night: Night, prepared: Prepared, challenger: Challenger, reigning: Reigning
) -> tuple[Verdict, Decision]:
    """Challenger, champion and baselines on the judge windows, and what the gate makes of it."""
    rival = None if reigning.bundle is None else _candidate(reigning.bundle)
    verdict = judge(
        prepared.panel,
        prepared.splits,
        night.data_set,
        _candidate(_bundle(night, prepared, challenger)),
        rival,
        challenger.judged[0].scaler,
    )
    evidence = Evidence(
        windows=len(verdict.bench.windows),
        challenger=verdict.scores["challenger"],
        seasonal_naive=verdict.scores["seasonal_naive"],
        has_champion=reigning.version is not None,
        champion=verdict.scores.get("champion"),
    )
    return verdict, _beside_linear(decide(evidence, night.data_set.retrain.margins), verdict)


def make_bundle(
    night: Night, prepared: Prepared, challenger: Challenger, verdict: Verdict, promoted: bool, stage: Stage
) -> tuple[Bundle, str]:
    """The version's bundle, and which weights serve and why.

    One that is promoted gets served weights, from the same recipes through as-of. They are held against
    their judged twin on the judge windows; where they fail, the twin serves.
    """
    if not promoted:
        stage.note = "not promoted"
        return _bundle(night, prepared, challenger), "Not promoted: the judged weights stand for both."
    span = Span(prepared.splits.train.first, prepared.splits.judge.last)
    served = _train(night, prepared, challenger.members, span, "served", stage)
    bundle = _bundle(night, prepared, challenger, served)
    bench = verdict.bench
    scores = bench.score(bundle.forecast_windows(bench.panel, bench.windows, "served"))
    serves, why = choose_weights(verdict.scores["challenger"], scores)
    return replace(bundle, serves=serves), why


def register(
    night: Night, prepared: Prepared, challenger: Challenger, bundle: Bundle, decision: Decision, why: str
) -> str:
    """The bundle as a version of the data set's registered model. Returns the version."""
    tags = {
        "decision": decision.ending,
        "reason": decision.reason,
        "serves": f"{bundle.serves}. {why}",
        "networks": ", ".join(_described(member.recipe.model) for member in bundle.members),
        "chosen": ". ".join(map(str, challenger.members)),
    }
    run = begin(night)
    version = night.registry.register(bundle, night.identity, run, prepared.panel, tags)
    night.tracker.log_tags(run, {"nightcast.model_version": version})
    return version


def promote(
    night: Night, prepared: Prepared, version: str, decision: Decision, verdict: Verdict, reigning: Reigning
) -> None:
    """Make the version the champion in the ledger, then let the alias follow.

    Raises:
        ChampionChanged: the champion is not the one that the challenger was compared with.
    """
    details = result_of(night, prepared, verdict, version)
    night.ledger.promote(night.identity, version, reigning.version, decision.reason, details)
    night.registry.sync(night.data_set.name, night.ledger)


def result_of(night: Night, prepared: Prepared, verdict: Verdict, version: str | None) -> dict[str, Any]:
    """What the ledger keeps of a judged night, JSON-safe."""
    return {
        "digest": prepared.digest,
        "content": prepared.content,
        "findings": prepared.findings,
        "scores": {name: scores.to_dict() for name, scores in verdict.scores.items()},
        "model_version": version,
        "run_id": night.run_id,
    }


def _train(
    night: Night, prepared: Prepared, members: tuple[Chosen, ...], span: Span, name: str, stage: Stage
) -> tuple[Trained, ...]:
    """Train each recipe on a span, one after the other; resumed where it was interrupted."""
    # The search is over: what its processes had is free.
    set_threads(night.settings.local_workers)
    folder = night.settings.checkpoints / night.study
    folder.mkdir(parents=True, exist_ok=True)
    epochs = [one.recipe.epochs for one in members]
    trained = []
    for number, one in enumerate(members):
        before = sum(epochs[:number])

        def say(epoch: int, loss: EpochLoss, before: int = before) -> None:
            stage.advance(before + epoch, sum(epochs), f"loss {loss.train:.3f}")

        checkpoint = folder / f"{name}-{one.number}.safetensors"
        device = choose_device(night.settings.device)
        trained.append(refit(one.recipe, prepared.panel, span, device, checkpoint=checkpoint, on_epoch=say))
    stage.note = f"{', '.join(map(str, epochs))} epochs"
    return tuple(trained)


def _bundle(
    night: Night, prepared: Prepared, challenger: Challenger, served: tuple[Trained, ...] | None = None
) -> Bundle:
    """A bundle of the judged weights, and the served ones where there are any."""
    panel, data_set = prepared.panel, night.data_set
    until = panel.frequency.shift(panel.start, prepared.splits.validation.last)
    judged = _twin(challenger.judged, until)
    return Bundle(
        layout=layout_of(data_set),
        frequency=panel.frequency,
        seasons=data_set.seasons,
        non_negative=data_set.non_negative,
        members=tuple(Member(one.recipe, one.calibration) for one in challenger.members),
        judged=judged,
        served=judged if served is None else _twin(served, panel.as_of),
        serves="judged" if served is None else "served",
        code_version=package_version("nightcast"),
    )


def _twin(trained: tuple[Trained, ...], until: np.datetime64) -> Twin:
    """Weights that were trained on the same span, and so in the same units."""
    return Twin(tuple(one.state for one in trained), trained[0].scaler, to_iso(until))


def _described(model: ForecasterConfig) -> str:
    """A network in a few words, for a tag."""
    layers = f"{model.num_layers} x {model.hidden_size}"
    return f"{model.cell} {layers} over {model.lookback} steps ({model.normalisation})"


def _candidate(bundle: Bundle) -> Candidate:
    return Candidate(
        forecast=lambda panel, windows: bundle.forecast_windows(panel, windows, "judged"),
        lookback=bundle.lookback,
        seen_until=np.datetime64(bundle.judged.until.removesuffix("Z"), "us"),
        series=bundle.judged.scaler.series,
    )


def _beside_linear(decision: Decision, verdict: Verdict) -> Decision:
    """A decision to promote that says where a linear model does better: it is no rival of the gate's."""
    own, linear = verdict.scores["challenger"].mae, verdict.scores["linear"].mae
    if decision.ending != "promoted" or not linear < own:
        return decision
    said = f"A linear model does better, though: MAE {linear:.4f}."
    return replace(decision, reasons=(*decision.reasons, said))


def _unfit(bundle: Bundle, data_set: DataSet, prepared: Prepared) -> str | None:
    """Why a champion cannot be judged on tonight's windows; None where it can."""
    panel = prepared.panel
    try:
        bundle.check(data_set)
        known = [name for name in panel.series if name in bundle.judged.scaler.series]
        if not known:
            return f"The champion knows none of the series. Remedy: nightcast retire {data_set.name}."
        bundle.judged.scaler.static.encode(panel.select(known))
        unseen(panel, prepared.splits.judge, [_candidate(bundle)], data_set.retrain.horizon)
    except DataRefused as refusal:
        return str(refusal)
    return None
