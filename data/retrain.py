"""A data set's `retrain:` block: how far to forecast, what to search, how long, and when to promote."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from data.calendar import Frequency, duration

Cell = Literal["lstm", "gru", "rnn"]
Encoder = Literal["lstm", "gru", "rnn", "transformer"]
Normalisation = Literal["instance", "last_value", "none"]
Head = Literal["calendar", "segments", "linear"]
Pooling = Literal["last", "attention"]
Channels = Literal["joint", "independent"]
Positions = Literal["learned", "sinusoidal"]

HEAD_SIZE = 16
"""Units of one attention head of a transformer."""

# Up to so many steps of horizon the calendar head is worth its cost (docs/decisions.md).
_FEW_STEPS = 48


def _is_duration(text: str) -> str:
    duration(text)
    return text


Duration = Annotated[str, AfterValidator(_is_duration)]


def check_network(cell: Encoder, hidden_size: int, lookback: int, segment_length: int) -> None:
    """That these go together.

    Raises:
        ValueError: they do not; says which and what would.
    """
    if lookback % segment_length:
        raise ValueError(f"lookback {lookback} is not a multiple of segment_length {segment_length}")
    if cell == "transformer" and hidden_size % HEAD_SIZE:
        raise ValueError(
            f"hidden_size {hidden_size} of a transformer is not a multiple of {HEAD_SIZE}, an attention head"
        )


class Settings(BaseModel):
    """Base of every catalog block: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class Budget(Settings):
    """What a night's search may spend, over all workers: the first limit reached ends it."""

    trials: int = Field(8, ge=1, description="Trials of the study")
    minutes: float = Field(30.0, gt=0, description="Minutes of searching")


class Margins(Settings):
    """By how much the challenger's MAE on the judge windows must be lower, as a share: .02 is 2 %."""

    champion: float = Field(0.005, ge=0, lt=1, description="Margin over the champion")
    seasonal_naive: float = Field(0.0, ge=0, lt=1, description="Margin over the seasonal naive")


class Interval(Settings):
    """A closed range that the search draws from, on a logarithmic scale where low is above 0."""

    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class SearchSpace(Settings):
    """What the search may choose. Lists are choices; low and high are a range."""

    cell: tuple[Encoder, ...] = Field(("lstm", "gru"), min_length=1)
    hidden_size: tuple[Annotated[int, Field(ge=1)], ...] = Field((32, 64, 128), min_length=1)
    num_layers: tuple[Annotated[int, Field(ge=1, le=8)], ...] = Field((1, 2), min_length=1)
    dropout: Interval = Interval(low=0.1, high=0.6)
    segment_length: tuple[Annotated[int, Field(ge=1)], ...] = Field((1,), min_length=1)
    lookback: tuple[Annotated[int, Field(ge=2)], ...] = Field((168,), min_length=1)
    normalisation: tuple[Normalisation, ...] = Field(("instance", "last_value", "none"), min_length=1)
    head: tuple[Head, ...] = Field(("segments", "calendar"), min_length=1)
    pooling: tuple[Pooling, ...] = Field(("last",), min_length=1)
    bidirectional: tuple[bool, ...] = Field((False,), min_length=1)
    channels: tuple[Channels, ...] = Field(("joint",), min_length=1)
    positions: tuple[Positions, ...] = Field(("learned",), min_length=1)
    pretrain_epochs: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    learning_rate: Interval = Interval(low=1e-3, high=4e-3)
    batch_size: tuple[Annotated[int, Field(ge=1)], ...] = Field((256,), min_length=1)

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.dropout.low < 0 or self.dropout.high >= 1:
            raise ValueError("dropout must lie in [0, 1)")
        if self.learning_rate.low <= 0:
            raise ValueError("learning_rate must be above 0")
        if 1 in self.segment_length and max(self.pretrain_epochs):
            raise ValueError("pretrain_epochs: segment_length 1 has no segments to hide; take 0 epochs")
        for network in product(self.cell, self.hidden_size, self.lookback, self.segment_length):
            check_network(*network)
        return self

    def with_keys(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Some keys of a space, not yet validated, and this one's for the others.

        Where lookbacks are given without segment lengths, those of this one stay that divide them all.
        """
        space = {**{name: getattr(self, name) for name in type(self).model_fields}, **given}
        lookbacks = space["lookback"]
        if "segment_length" not in given and isinstance(lookbacks, list | tuple):
            whole = [steps for steps in lookbacks if isinstance(steps, int)]
            fitting = tuple(s for s in self.segment_length if not any(steps % s for steps in whole))
            space["segment_length"] = fitting or (1,)
        return space


class Retrain(Settings):
    """The nightly retrain of one data set. Every key has a default that fits the frequency.

    Spans are durations; ``train`` unset means everything before the validation span.
    """

    horizon: int = Field(ge=1, description="Grid steps to forecast")
    train: Duration | None = None
    validation: Duration
    judge: Duration
    embargo: int = Field(0, ge=0, description="Grid steps kept unused between two spans")
    quantiles: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9)
    max_epochs: int = Field(30, ge=1)
    seed: int = Field(0, ge=0)
    search_space: SearchSpace = SearchSpace()
    budget: Budget = Budget()
    margins: Margins = Margins()
    ensemble: bool = Field(
        False, description="Forecast the mean of one network of each normalisation, not of one alone"
    )
    schedule: str | None = Field(
        None, description="Cron of the nightly deployment, in the data set's time zone"
    )

    @model_validator(mode="after")
    def _members(self) -> Self:
        choices = self.search_space.normalisation
        if self.ensemble and len(set(choices)) < 2:
            raise ValueError(
                "ensemble needs two normalisations or more; search_space.normalisation has "
                f"{choices[0]!r} alone: list another, or leave ensemble out"
            )
        return self

    @model_validator(mode="after")
    def _quantiles(self) -> Self:
        levels = self.quantiles
        if list(levels) != sorted(set(levels)) or not all(0 < level < 1 for level in levels):
            raise ValueError("quantiles must rise strictly between 0 and 1")
        if 0.5 not in levels:
            raise ValueError("quantiles must hold 0.5, the point forecast")
        return self


def defaults(frequency: Frequency, horizon: int | None = None) -> dict[str, Any]:
    """Values of `Retrain` that fit a frequency: a day, a fortnight, eight weeks or a year ahead.

    Args:
        horizon: where it is another one.

    The rarer the steps the fewer the windows, so the smaller the batches and the more the epochs: a training
    needs some hundreds of them to get anywhere.
    """
    seconds = frequency.seconds
    if seconds < 86_400:
        day = 86_400 // seconds
        # A quarter of a day, or the next smaller part that days are a multiple of.
        quarter = next(steps for steps in range(max(day // 4, 1), 0, -1) if day % steps == 0)
        segments = (day,) if day <= 48 else (quarter, day)
        space = SearchSpace(
            hidden_size=(64, 128, 192),
            segment_length=segments,
            lookback=(7 * day, 14 * day),
            head=_heads(horizon or day, day),
        )
        return {"horizon": day, "validation": "4w", "judge": "4w", "search_space": space}
    if frequency.text == "D":
        space = SearchSpace(segment_length=(1, 7), lookback=(28, 56), batch_size=(32, 64))
        return {"horizon": 14, "validation": "8w", "judge": "8w", "max_epochs": 40, "search_space": space}
    if frequency.text.startswith("W"):
        space = SearchSpace(segment_length=(1, 4), lookback=(52, 104), batch_size=(16, 32))
        return {"horizon": 8, "validation": "26w", "judge": "26w", "max_epochs": 60, "search_space": space}
    space = SearchSpace(segment_length=(1, 3), lookback=(24, 36), batch_size=(16, 32))
    return {"horizon": 12, "validation": "104w", "judge": "104w", "max_epochs": 60, "search_space": space}


def _heads(horizon: int, day: int) -> tuple[Head, ...]:
    """Heads to try for steps of less than a day; the first of two is the default.

    The calendar head costs as much for each step as the segment head for each segment.
    """
    if horizon > 2 * day:
        return ("segments",)
    return ("calendar", "segments") if horizon <= _FEW_STEPS else ("segments", "calendar")


def default_seasons(frequency: Frequency) -> tuple[int, ...]:
    """Season lengths in steps, the strongest first: a day and a week, a week, or a year."""
    seconds = frequency.seconds
    if seconds < 86_400:
        return (86_400 // seconds, 7 * 86_400 // seconds)
    return {"D": (7,), "W": (52,), "M": (12,)}[frequency.text[0]]
