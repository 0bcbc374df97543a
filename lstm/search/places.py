"""Bookkeeping over a study's trials: who runs one, which place of the budget it takes, how long it took.

A PLACE is one configuration that the budget pays for. A trial that was killed or interrupted is queued
again as a new trial of the same place, so an accident costs no place. All times are seconds of the Unix
clock, written by the workers: Optuna's own are local to each host.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from data.processes import Process, is_dead
from data.retrain import Budget

# User attribute of a study.
KNOWN = "known"  # how many of the first places hold what was known before it

# User attributes of a trial.
CLAIM = "claim"  # {"process", "time"}: who runs it, since when
EPOCHS = "epochs"  # {"time", "train_losses"}: the newest epoch's end, and every epoch's training loss
END = "end"  # {"time", "reason"}: an orderly end
RECIPE = "recipe"  # of a complete trial, as JSON-safe dictionary
LOSSES = "losses"  # of a complete trial: on groups of the validation windows
CALIBRATION = "calibration"  # of a complete trial, as JSON-safe dictionary
PLACE = "place"  # {"number", "kills"}: the trial that this one repeats, and how often it was killed
BEYOND = "beyond"  # True: it came after the budget's last place

_MOST_KILLS = 2


def place(trial: FrozenTrial) -> int:
    """The number of the place: that of its first trial."""
    return int(trial.user_attrs.get(PLACE, {}).get("number", trial.number))


def places(trials: Sequence[FrozenTrial]) -> dict[int, FrozenTrial]:
    """The newest trial of each place, in the order of the places."""
    newest = {place(t): t for t in sorted(trials, key=lambda t: t.number) if BEYOND not in t.user_attrs}
    return dict(sorted(newest.items()))


def paid(trials: Sequence[FrozenTrial], budget: Budget) -> dict[int, FrozenTrial]:
    """The newest trial of each place that the budget pays for."""
    return dict(list(places(trials).items())[: budget.trials])


def is_beyond(trials: Sequence[FrozenTrial], number: int, budget: Budget) -> bool:
    """True if a trial's place comes after the budget's last one. Later trials never change the answer."""
    own = next(place(trial) for trial in trials if trial.number == number)
    return sum(other < own for other in places(trials)) >= budget.trials


def known(study: optuna.Study) -> int:
    """How many of the study's first places hold what was known before it."""
    return int(study.user_attrs.get(KNOWN, 0))


def normalisation(trial: FrozenTrial) -> str:
    """That of a complete trial's network."""
    return str(trial.user_attrs[RECIPE]["model"]["normalisation"])


def seconds(trials: Sequence[FrozenTrial]) -> float:
    """Time in which at least one trial ran: pauses between two sessions of a search cost nothing."""
    total, until = 0.0, 0.0
    for start, end in sorted(_interval(trial) for trial in trials if CLAIM in trial.user_attrs):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def trial_seconds(trial: FrozenTrial) -> float:
    """How long a trial ran; 0 if it never started."""
    start, end = _interval(trial) if CLAIM in trial.user_attrs else (0.0, 0.0)
    return max(0.0, end - start)


def is_spent(trials: Sequence[FrozenTrial], budget: Budget) -> bool:
    """True if the time is over, or every place is taken and none waits for a worker."""
    own = paid(trials, budget)
    is_full = len(own) >= budget.trials and all(t.state is not TrialState.WAITING for t in own.values())
    return is_full or seconds(trials) >= budget.minutes * 60


def has_dead_owner(trial: FrozenTrial) -> bool:
    """True if the trial says that it runs, and its process on this host is gone."""
    claim = trial.user_attrs.get(CLAIM)
    return (
        trial.state is TrialState.RUNNING and claim is not None and is_dead(Process.parse(claim["process"]))
    )


def queue_again(study: optuna.Study, trial: FrozenTrial, *, killed: bool) -> bool:
    """Queue a trial's place again, with the same parameters; the next worker takes it before a new one.

    Optuna's own callback copies the user attributes, the dead owner's claim among them, and counts an
    interruption by a person like a crash.

    Args:
        killed: its process died. What kills its process three times is not queued again.

    Returns:
        Whether it was queued.
    """
    kills = int(trial.user_attrs.get(PLACE, {}).get("kills", 0)) + killed
    if kills > _MOST_KILLS or BEYOND in trial.user_attrs:
        return False
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            system_attrs=trial.system_attrs,
            user_attrs={PLACE: {"number": place(trial), "kills": kills}},
        )
    )
    return True


def _interval(trial: FrozenTrial) -> tuple[float, float]:
    attributes: dict[str, Any] = trial.user_attrs
    start = float(attributes[CLAIM]["time"])
    if END in attributes:
        return start, float(attributes[END]["time"])
    if trial.state is TrialState.RUNNING and not has_dead_owner(trial):
        return start, time.time()
    # It was killed: its last sign of life.
    return start, float(attributes.get(EPOCHS, {}).get("time", start))
