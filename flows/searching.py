"""The search of a night: its study, and the wait until the workers have spent the budget."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from flows.contest import Reigning
from flows.night import Night
from flows.progress import Stage
from flows.workers import Workers, WorkersFailed
from lstm.search import study
from lstm.search.space import centre, contains, params_of
from lstm.search.study import Best, Progress

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0


def create_study(night: Night, reigning: Reigning) -> None:
    """The night's study, made before its workers start. It tries the middle of the space first, then what
    the champion was made with."""
    retrain = night.data_set.retrain
    first = [centre(retrain.search_space)]
    if reigning.bundle is not None:
        params = params_of(reigning.bundle.recipe)
        first += [params] if contains(retrain.search_space, params) else []
    study.create(night.settings.study_url, night.identity.key, retrain.budget, retrain.seed, first)


def wait_for_search(night: Night, workers: Workers, is_lost: Callable[[], None], stage: Stage) -> Best:
    """Wait until the workers have spent the budget; the best trial.

    Args:
        is_lost: raises where the night may not go on.

    Raises:
        WorkersFailed: every worker ended in an error before a trial finished.
        SearchFailed: no trial finished.
    """
    url, name, budget = night.settings.study_url, night.identity.key, night.data_set.retrain.budget
    while True:
        done = workers.are_done()
        study.clean(url, name)
        progress = study.progress(url, name)
        ended = progress.complete + progress.pruned + progress.failed
        stage.advance(ended, budget.trials, _note(progress))
        if done:
            break
        is_lost()
        time.sleep(POLL_SECONDS)
    stage.note = _note(progress)
    errors = workers.errors()
    if errors and not progress.complete:
        raise WorkersFailed("every search worker ended in an error.\n" + "\n".join(errors))
    for error in errors:
        logger.warning("a search worker ended in an error: %s", error)
    return study.best(url, name)


def _note(progress: Progress) -> str:
    parts = [f"{progress.complete} finished", f"{progress.pruned} pruned"]
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.best_value is not None:
        parts.append(f"best loss {progress.best_value:.4f}")
    return ", ".join(parts)
