"""The search of a night: its study, and the wait until the workers have spent the budget."""

from __future__ import annotations

import logging
from collections.abc import Callable

from flows.contest import Reigning
from flows.night import Night
from flows.progress import Stage
from flows.workers import Workers, WorkersFailed
from lstm.search import study
from lstm.search.space import first_trials, params_of
from lstm.search.study import Chosen, Progress

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0


def create_study(night: Night, reigning: Reigning) -> None:
    """The night's study, made before its workers start, with its first trials queued."""
    retrain = night.data_set.retrain
    champion = () if reigning.bundle is None else reigning.bundle.members
    first = first_trials(retrain, [params_of(member.recipe) for member in champion])
    study.create(night.settings.study_url, night.study, retrain.budget, retrain.seed, first)


def wait_for_search(night: Night, workers: Workers, check_lease: Callable[[], None], stage: Stage) -> None:
    """Wait until the workers have spent the budget. One that is killed meanwhile is replaced.

    Args:
        check_lease: raises where the night may not go on.

    Raises:
        WorkersFailed: every worker ended in an error before a trial finished.
    """
    url, name, budget = night.settings.study_url, night.study, night.data_set.retrain.budget
    while True:
        done = workers.wait(POLL_SECONDS)
        study.clean(url, name)
        progress = study.progress(url, name)
        ended = progress.complete + progress.pruned + progress.failed
        stage.advance(ended, budget.trials, _note(progress))
        check_lease()
        if not progress.spent and (count := workers.replace_killed()):
            logger.warning("%d search workers were killed; as many others take their place", count)
        elif done:
            break
    stage.note = _note(progress)
    errors = workers.errors()
    if errors and not progress.complete:
        raise WorkersFailed("every search worker ended in an error.\n" + "\n".join(errors))
    for error in errors:
        logger.warning("a search worker ended in an error: %s", error)


def members(night: Night) -> tuple[Chosen, ...]:
    """The trial of the night's study to go on with; for an ensemble one of each normalisation, the best of
    all first.

    Raises:
        SearchFailed: no trial finished.
    """
    url, retrain = night.settings.study_url, night.data_set.retrain
    if not retrain.ensemble:
        return (study.chosen(url, night.study),)
    found = study.chosen_of_each(url, night.study)
    for kind in set(retrain.search_space.normalisation) - {one.recipe.model.normalisation for one in found}:
        logger.warning("no trial with normalisation %s finished: the ensemble does without one", kind)
    return found


def is_over(night: Night) -> bool:
    """True where an earlier attempt at this night has spent the budget."""
    return study.progress(night.settings.study_url, night.study).spent


def tidy(night: Night) -> None:
    """End what workers that were killed left running: trials, and their MLflow runs."""
    study.clean(night.settings.study_url, night.study)
    night.tracker.sweep(night.data_set.name)


def _note(progress: Progress) -> str:
    parts = [f"{progress.complete} finished", f"{progress.pruned} pruned"]
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.best_value is not None:
        parts.append(f"best loss {progress.best_value:.4f}")
    return ", ".join(parts)
