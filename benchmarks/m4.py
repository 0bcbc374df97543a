"""Collections of short series as the M4 competition ships them, and its measures.

Makridakis, Spiliotis and Assimakopoulos 2020, "The M4 Competition: 100,000 time series and 61 forecasting
methods", International Journal of Forecasting 36. One row a series: an id, then its values; the test file
holds the values that follow. There are no times: series are aligned at their ends, and what the calendar says
of the times that they get here is left out.

Axes: S series, H horizon steps, N steps of a series.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from benchmarks.protocol import Case, every_window
from benchmarks.standing import Forecast
from data.calendar import Frequency
from data.errors import DataRefused
from data.panel import Floats, Panel
from data.retrain import defaults
from data.splits import Span, Splits
from lstm.evaluation import metrics
from lstm.evaluation.baselines import naive_scale, seasonal_naive
from lstm.windows import targets

# Two-sided 90 %, as in the competition's own code.
_CRITICAL = 1.645
_FREQUENCIES = {24: "h", 7: "D", 52: "W", 12: "MS"}
_END = np.datetime64("2000-01-01T00:00:00", "us")


def read_m4(train: Path, test: Path, season: int, lookbacks: Sequence[int] = ()) -> Case:
    """A collection: the last horizon of the train file validates, the test file is the test span.

    A series shorter than the lookback begins with missing values.

    Args:
        season: steps in a season, 1 for none.
        lookbacks: as in `Plan`.

    Raises:
        DataRefused: a file is missing or not such a collection, or the two do not belong together.
    """
    name = train.stem.lower().replace("-", "_")
    past, future = _read(train, name), _read(test, name)
    horizon = max((len(values) for values in future.values()), default=0)
    for series, values in future.items():
        if series not in past or len(values) != horizon:
            raise DataRefused(
                f"{test.name} has {len(values)} of {horizon} values; "
                f"{train.name} {'has' if series in past else 'lacks'} the series.",
                data_set=name,
                series=series,
                remedy="give the train and the test file of one collection.",
            )
    frequency = Frequency(_FREQUENCIES.get(season, "MS"))
    longest = max(lookbacks or defaults(frequency)["search_space"].lookback)
    least = longest + 3 * horizon
    whole = [np.concatenate([past[series], future[series]]) for series in future]
    rows = [np.pad(values, (max(0, least - len(values)), 0), constant_values=np.nan) for values in whole]
    lengths = np.array([len(values) for values in rows])
    steps = int(lengths.max())
    end = frequency.floor(np.array([_END]))[0]
    panel = Panel(
        data_set=name,
        frequency=frequency,
        target="value",
        covariates=(),
        series=tuple(future),
        start=frequency.shift(end, 1 - steps),
        first_steps=(steps - lengths).astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        values=np.concatenate(rows)[:, np.newaxis],
    )
    spans = [Span(steps - n * horizon, steps - (n - 1) * horizon - 1) for n in (2, 1)]
    splits = Splits(Span(0, spans[0].first - 1), *spans)
    entry = {
        "source": {"kind": "csv", "path": str(train)},
        "time": "time",
        "target": "value",
        "frequency": frequency.text,
    }
    return Case(name, panel, splits, season, entry, has_times=False)


def score(case: Case, horizon: int, levels: tuple[float, ...], forecast: Forecast) -> dict[str, float]:
    """`smape`, `mase` and `owa` of the median's forecasts."""
    chosen = every_window(case.panel, case.splits.judge, horizon)
    median = forecast(chosen)[..., list(levels).index(0.5)]
    return measures(case, horizon, case.scaler.unscale(median, chosen.series))


def baselines(case: Case, horizon: int) -> dict[str, dict[str, float]]:
    """The measures of Naive2, by which OWA is 1, and of the seasonal naive."""
    chosen = every_window(case.panel, case.splits.judge, horizon)
    return {
        "Naive2": measures(case, horizon, _all_naive2(case, horizon)),
        "seasonal naive": measures(case, horizon, seasonal_naive(case.panel, chosen, horizon, case.season)),
    }


def measures(case: Case, horizon: int, forecast_SH: Floats) -> dict[str, float]:
    """sMAPE, MASE and OWA of forecasts in the series' own units; a constant series has no MASE.

    OWA is the mean of sMAPE and MASE, each over that of Naive2.
    """
    y_SH = targets(case.panel, every_window(case.panel, case.splits.judge, horizon), horizon)
    scale_S = naive_scale(case.seen, case.season, case.splits.validation.last)

    def both(z_SH: Floats) -> tuple[float, float]:
        return smape(y_SH, z_SH), metrics.mase(y_SH, z_SH, scale_S)

    found, reference = both(forecast_SH), both(_all_naive2(case, horizon))
    owa = sum(own / other for own, other in zip(found, reference, strict=True)) / 2
    return {"smape": found[0], "mase": found[1], "owa": owa}


def smape(y: Floats, forecast: Floats) -> float:
    """Symmetric mean absolute percentage error, 0 to 200: the mean of 200 |y - f| / (|y| + |f|).

    Both 0 is no error.
    """
    sums = np.abs(y) + np.abs(forecast)
    return float(np.mean(200 * np.abs(y - forecast) / np.where(sums > 0, sums, 1.0)))


def naive2(values_N: Floats, season: int, horizon: int) -> Floats:
    """(H,) the last value, seasonally adjusted where the series is seasonal.

    As the competition's code has it: the adjustment is classical multiplicative decomposition, and made only
    where `is_seasonal` says so.
    """
    if not is_seasonal(values_N, season):
        return np.full(horizon, values_N[-1])
    index = seasonal_indices(values_N, season)
    ahead_H = index[(len(values_N) + np.arange(horizon)) % season]
    forecast: Floats = values_N[-1] / index[(len(values_N) - 1) % season] * ahead_H
    return forecast


def is_seasonal(values_N: Floats, season: int) -> bool:
    """Whether the autocorrelation at the season is beyond 1.645 standard errors (Bartlett's formula).

    Never with less than three seasons, or for a constant.
    """
    count = len(values_N)
    apart = values_N - values_N.mean()
    total = float(apart @ apart)
    if season < 2 or count < 3 * season or season > int(10 * np.log10(count)) or not total:
        return False
    correlation = np.array([apart[lag:] @ apart[:-lag] / total for lag in range(1, season + 1)])
    limit = _CRITICAL * np.sqrt((1 + 2 * (correlation[:-1] ** 2).sum()) / count)
    return bool(abs(correlation[-1]) > limit)


def seasonal_indices(values_N: Floats, season: int) -> Floats:
    """(season,) the mean ratio of each phase, from the first value's on, to the centred moving average.

    Their mean is 1, as in R's `decompose`.
    """
    weights = np.ones(season) if season % 2 else np.concatenate([[0.5], np.ones(season - 1), [0.5]])
    trend = np.convolve(values_N, weights / season, mode="valid")
    first = len(weights) // 2
    ratios = np.full(-(-len(values_N) // season) * season, np.nan)
    ratios[first : first + len(trend)] = values_N[first : first + len(trend)] / trend
    index = np.nanmean(ratios.reshape(-1, season), axis=0)
    normalised: Floats = index / index.mean()
    return normalised


def _all_naive2(case: Case, horizon: int) -> Floats:
    """(S, H) Naive2 of every series."""
    seen = case.seen
    rows = (seen.values[seen.rows(number), 0] for number in range(len(seen.series)))
    return np.stack([naive2(values[~np.isnan(values)], case.season, horizon) for values in rows])


def _read(path: Path, name: str) -> dict[str, Floats]:
    """The values of each series, without the empty cells at the end."""
    try:
        frame = pl.read_csv(path, infer_schema=False)
        ids = frame.to_series(0).str.strip_chars('" ')
        values = frame[:, 1:].cast(pl.Float64)
    except (OSError, PolarsError) as error:
        raise DataRefused(
            f"{path} cannot be read as a collection: {str(error).splitlines()[0]}.",
            data_set=name,
            remedy="give a CSV file with a header, and in each row an id and then numbers.",
        ) from error
    rows = values.fill_null(float("nan")).to_numpy()
    found = {series: row[~np.isnan(row)] for series, row in zip(ids, rows, strict=True)}
    empty = [series for series, row in found.items() if not len(row)]
    if not found or empty:
        raise DataRefused(
            f"{path} holds {'no values of the series' if empty else 'no series'}.",
            data_set=name,
            series=empty[0] if empty else None,
            remedy="give a file with at least one value a row.",
        )
    return found
