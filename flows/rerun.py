"""A night that has its result and is run again: what a kill left undone is done, and the night is skipped."""

from __future__ import annotations

from flows.forecasting import path_of
from flows.night import Night, Outcome, outcome_of
from flows.reporting import store_forecast
from flows.sweep import mend_run
from flows.worker import snapshot
from lstm.promotion.records import Night as Past

_ANEW = "Should the source have been corrected since: with other --trials or --minutes it is another night."


def rerun(night: Night, past: Past) -> Outcome:
    """Skipped, with what came of the night then.

    Args:
        past: the night as the ledger has it, promoted or kept.
    """
    night.registry.sync(night.data_set.name, night.ledger)
    _store_missing_forecast(night, past)
    mend_run(night, past)
    reason = f"This night has been run before: {past.ending}. {past.reason} {_ANEW}"
    night.ledger.end_night(night.identity, "skipped", reason)
    return outcome_of(night, "skipped", reason, past.details)


def _store_missing_forecast(night: Night, past: Past) -> None:
    """The forecast of a night that was stopped after it had promoted.

    Only while its version serves: a later champion has learned from what this night could not see.
    """
    identity = night.identity
    champion = night.ledger.champion(identity.data_set)
    if champion is None or champion.version != past.details["model_version"]:
        return
    if path_of(night.settings.forecasts, identity.data_set, identity.as_of, champion.version).exists():
        return
    run, digest = past.details["run_id"], past.details["digest"]
    store_forecast(night, snapshot(night.tracker, run, digest, night.settings.snapshots))
