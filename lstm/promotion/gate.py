"""The gate: does the challenger become the champion? Pure, and it fails closed.

A challenger is promoted only where every number needed is there and finite, all were scored on the same
judge windows, and its MAE is strictly below the champion's and the seasonal naive's by the margins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from data.retrain import Margins
from lstm.evaluation.scores import Scores

Verdict = Literal["promoted", "kept", "refused"]
Weights = Literal["judged", "served"]


@dataclass(frozen=True)
class Evidence:
    """What the gate is shown. Scores are None where they could not be had.

    Args:
        windows: how many judge windows there are.
        challenger: the challenger's judged weights on them.
        seasonal_naive: the baseline on them.
        has_champion: False only where the ledger says that there is none.
        champion: the champion's judged weights on them.
        problems: what went wrong while gathering; any problem refuses.
    """

    windows: int
    challenger: Scores | None
    seasonal_naive: Scores | None
    has_champion: bool
    champion: Scores | None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """The gate's answer and every reason for it, as sentences."""

    ending: Verdict
    reasons: tuple[str, ...]

    @property
    def reason(self) -> str:
        """All reasons as one text."""
        return " ".join(self.reasons)


def decide(evidence: Evidence, margins: Margins) -> Decision:
    """Promote, keep or refuse. Ties keep.

    With margin m, the challenger beats a rival where ``challenger.mae < (1 - m) * rival.mae``.
    """
    faults = tuple(_faults(evidence))
    if faults:
        return Decision("refused", faults)
    rivals = [("seasonal naive", evidence.seasonal_naive, margins.seasonal_naive)]
    if evidence.has_champion:
        rivals.insert(0, ("champion", evidence.champion, margins.champion))
    beaten, reasons = [], []
    for name, rival, margin in rivals:
        assert evidence.challenger is not None
        assert rival is not None
        beats = evidence.challenger.mae < (1 - margin) * rival.mae
        beaten.append(beats)
        reasons.append(_compare(evidence.challenger.mae, name, rival.mae, margin, beats))
    if not evidence.has_champion:
        reasons.append("It is the first champion." if all(beaten) else "There is still no champion.")
    return Decision("promoted" if all(beaten) else "kept", tuple(reasons))


def choose_weights(judged: Scores, served: Scores | None, bound: float = 0.25) -> tuple[Weights, str]:
    """Which of a version's twins serves, and why.

    The served weights have seen the judge span, so there they must be finite and not worse than their
    judged twin by more than `bound`, a share of its MAE; otherwise something went wrong in their
    training and the twin serves.
    """
    if served is None or not _is_finite(served):
        return "judged", "The served weights do not forecast finite values; the judged ones serve."
    if served.windows != judged.windows:
        return "judged", "The served weights were not checked on the judge windows; the judged ones serve."
    if not served.mae <= (1 + bound) * judged.mae:
        text = f"The served weights' MAE {served.mae:.4f} is over {1 + bound:g} x {judged.mae:.4f}"
        return "judged", f"{text} of the judged ones, which serve."
    return "served", f"The served weights agree: MAE {served.mae:.4f}, judged ones {judged.mae:.4f}."


def _faults(evidence: Evidence) -> Iterator[str]:
    """Everything that is missing, not finite or not comparable."""
    yield from evidence.problems
    if evidence.windows < 1:
        yield "There are no judge windows."
    candidates = [("challenger", evidence.challenger), ("seasonal naive", evidence.seasonal_naive)]
    if evidence.has_champion:
        candidates.append(("champion", evidence.champion))
    elif evidence.champion is not None:
        yield "There are scores of a champion, yet the ledger has none."
    for name, scores in candidates:
        if scores is None:
            yield f"The {name} has no scores."
        elif not _is_finite(scores):
            yield f"The {name} has scores or forecasts that are not finite."
        elif scores.windows != evidence.windows:
            yield f"The {name} was scored on {scores.windows} of {evidence.windows} judge windows."


def _is_finite(scores: Scores) -> bool:
    return scores.finite and math.isfinite(scores.mae) and scores.mae >= 0


def _compare(challenger: float, name: str, rival: float, margin: float, beats: bool) -> str:
    verb = "beats" if beats else "does not beat"
    share = f" by the margin of {margin:.1%}" if margin else ""
    return f"MAE {challenger:.4f} {verb} the {name}'s {rival:.4f}{share}."
