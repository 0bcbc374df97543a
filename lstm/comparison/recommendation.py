"""From measurements to words: which forecaster to take, why, and how sure that is.

Who is worse than the best one beyond chance, or by more than a hair, is out. Of those that remain the
cheapest is taken, since nothing shows that the others give more; of those that cost about the same, the most
accurate.

Axes: G groups of windows (`lstm.evaluation.significance`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from data.panel import Floats
from lstm.evaluation.significance import FEWEST_GROUPS, LEVEL, Difference, difference, estimate, holm

Sureness = Literal["sure", "fairly sure", "unsure"]

CLOSE = 0.02
"""Up to this share of the lowest error, a difference that may be chance is too small to pay for."""

SIMILAR_COST = 1.25
"""Up to this ratio two trainings cost about the same."""

SURE, FAIRLY_SURE = 0.02, 0.05

_SPOKEN = {
    "lstm": "LSTM",
    "gru": "GRU",
    "rnn": "RNN",
    "seasonal_naive": "seasonal naive",
    "linear": "linear model",
}


# Arrays have no single truth value, so candidates compare by identity.
@dataclass(frozen=True, eq=False)
class Candidate:
    """A forecaster with the lookback that validation liked best.

    Args:
        network: ``lstm``, ``linear``, ``seasonal_naive`` and so on; each once.
        lookback: grid steps that it reads.
        loss_G: its mean loss on each group of judge windows.
        seconds: of one training.
    """

    network: str
    lookback: int
    loss_G: Floats
    seconds: float


@dataclass(frozen=True)
class Recommendation:
    """What to take, and what is known about it.

    Attributes:
        network: the one to take.
        best: the one with the lowest loss.
        headline: what to take, as a sentence.
        reasons: why, as sentences.
        sureness: how sure that is; `because` says why.
        behind: by how much each of the others is worse than the best; its p value is Holm's.
        gives_away: the most that another could be better than the one to take, as a share of its loss, at
            95% confidence; infinite where nothing is known.
    """

    network: str
    best: str
    headline: str
    reasons: tuple[str, ...]
    sureness: Sureness
    because: str
    behind: Mapping[str, Difference]
    gives_away: float


def recommend(candidates: Sequence[Candidate]) -> Recommendation:
    """Choose one of at least one candidate."""
    best = min(candidates, key=lambda one: (float(one.loss_G.mean()), one.seconds))
    behind = _behind(best, candidates)
    close = [one for one in candidates if _is_close(one, best, behind)]
    least = min(one.seconds for one in close)
    cheap = [one for one in close if one.seconds <= SIMILAR_COST * least]
    chosen = min(cheap, key=lambda one: (float(one.loss_G.mean()), one.seconds))
    gives_away = _gives_away(chosen, candidates)
    sureness, because = _sureness(chosen, gives_away)
    return Recommendation(
        network=chosen.network,
        best=best.network,
        headline=_headline(chosen),
        reasons=tuple(_reasons(chosen, best, candidates, behind)),
        sureness=sureness,
        because=because,
        behind=behind,
        gives_away=gives_away,
    )


def spoken(network: str) -> str:
    """A forecaster's name as people write it."""
    return _SPOKEN.get(network, network.capitalize())


def p_value(p: float) -> str:
    """``p = 0.04``, or ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _is_close(one: Candidate, best: Candidate, behind: Mapping[str, Difference]) -> bool:
    """Whether it is as good as the best, as far as anybody can tell."""
    if one is best:
        return True
    found = behind[one.network]
    return found.p >= LEVEL and found.mean <= CLOSE * float(best.loss_G.mean())


def _behind(best: Candidate, candidates: Sequence[Candidate]) -> dict[str, Difference]:
    others = [one for one in candidates if one is not best]
    raw = [difference(one.loss_G, best.loss_G) for one in others]
    return {
        one.network: Difference(found.mean, found.low, found.high, p)
        for one, found, p in zip(others, raw, holm([found.p for found in raw]), strict=True)
    }


def _gives_away(chosen: Candidate, candidates: Sequence[Candidate]) -> float:
    others = (difference(chosen.loss_G, one.loss_G).high for one in candidates if one is not chosen)
    most, loss = max(others, default=0.0), float(chosen.loss_G.mean())
    return max(0.0, most) / loss if most > 0 else 0.0


def _sureness(chosen: Candidate, gives_away: float) -> tuple[Sureness, str]:
    groups = len(chosen.loss_G)
    longer = "A longer retrain.judge in the catalog would tell more."
    if groups < FEWEST_GROUPS:
        counted = "1 group" if groups == 1 else f"{groups} groups"
        return "unsure", (
            f"The judge windows span so little time that they make {counted} of windows that are nearly "
            f"independent, too few to tell a difference from chance. {longer}"
        )
    if gives_away == 0:
        return "sure", "At 95% confidence, none of the others is better."
    bound = f"At 95% confidence, none of the others is better by more than {gives_away:.1%}."
    if gives_away > FAIRLY_SURE:
        return "unsure", f"{bound} {longer}"
    return "sure" if gives_away <= SURE else "fairly sure", bound


def _headline(chosen: Candidate) -> str:
    if chosen.network == "seasonal_naive":
        return "Stay with the seasonal naive."
    return f"Take the {spoken(chosen.network)}, with a lookback of {chosen.lookback} steps."


def _reasons(
    chosen: Candidate, best: Candidate, candidates: Sequence[Candidate], behind: Mapping[str, Difference]
) -> list[str]:
    loss, lowest = estimate(chosen.loss_G), float(best.loss_G.mean())
    known = f" (95% interval {loss.low:.3f} to {loss.high:.3f})" if math.isfinite(loss.low) else ""
    lead = f"has the lowest error on the judge windows: an MAE of {lowest:.3f} standard deviations"
    if chosen is best:
        reasons = [f"It {lead}{known}."]
    else:
        reasons = [
            f"The {spoken(best.network)} {lead}. The {spoken(chosen.network)}'s is {loss.mean:.3f}{known}: "
            f"{_more(chosen, lowest)} higher, which may be chance ({p_value(behind[chosen.network].p)}).",
            f"Training the {spoken(best.network)} takes {_times(best.seconds, chosen.seconds)} as long.",
        ]
    others = [one for one in candidates if one not in (chosen, best)]
    close = [one for one in others if _is_close(one, best, behind)]
    unclear = [one for one in others if one not in close and behind[one.network].p >= LEVEL]
    worse = [one for one in others if behind[one.network].p < LEVEL]
    reasons += [
        f"The {spoken(one.network)} cannot be told apart from the best: {_more(one, lowest)} more error "
        f"({p_value(behind[one.network].p)}){_costs(one, chosen)}."
        for one in close
    ]
    for some, words in ((unclear, "Worse here, though that may be chance"), (worse, "Worse beyond chance")):
        if some:
            listed = [
                f"the {spoken(one.network)} by {_more(one, lowest)} ({p_value(behind[one.network].p)})"
                for one in some
            ]
            reasons.append(f"{words}: {_listed(listed)}.")
    return reasons


def _more(one: Candidate, lowest: float) -> str:
    return f"{float(one.loss_G.mean()) / lowest - 1:.1%}" if lowest > 0 else "no"


def _costs(one: Candidate, chosen: Candidate) -> str:
    if one.seconds <= SIMILAR_COST * chosen.seconds:
        return ", for about the same time" if one.seconds * SIMILAR_COST >= chosen.seconds else ""
    return f", and it takes {_times(one.seconds, chosen.seconds)} as long to train"


def _times(seconds: float, than: float) -> str:
    if than <= 0:
        return "infinitely"
    ratio = seconds / than
    return f"{ratio:.1f} times" if ratio < 10 else f"{float(f'{ratio:.2g}'):,.0f} times"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
