"""A comparison without training, for tests: forecasts are made up, everything else is real."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.catalog import DataSet, parse_data_set
from data.panel import Panel
from data.retrain import Budget
from data.splits import split
from lstm.comparison.bench import Ground, baselines, make_bench, scaler_of
from lstm.comparison.contenders import compared, contenders, only
from lstm.comparison.cost import Cost
from lstm.comparison.results import Comparison, Searched, Trained, conclude
from lstm.search.space import at_centre
from lstm.training.recipe import Recipe

HORIZON = 6
NETWORKS = ("lstm", "gru", "rnn")
LOOKBACKS = (12, 24, 48)


def declared(**keys: object) -> DataSet:
    space = {"lookback": [24], "segment_length": [12]}
    entry = {
        "source": {"kind": "csv", "path": "load.csv"},
        "time": "time",
        "target": "load",
        "frequency": "h",
        "seasons": [24],
        "retrain": {"horizon": HORIZON, "validation": "6d", "judge": "10d", "search_space": space},
        **keys,
    }
    return parse_data_set(Path("catalog.yaml"), "made", entry)


def ground(panel: Panel, data_set: DataSet | None = None) -> Ground:
    wanted = compared(data_set or declared(), NETWORKS, LOOKBACKS).with_budget(Budget(trials=4, minutes=1))
    return Ground(wanted, panel, split(panel, wanted.retrain))


def comparison(panel: Panel, data_set: DataSet | None = None, seeds: int = 2) -> Comparison:
    """The networks forecast what happens, each with noise of its own."""
    made = ground(panel, data_set)
    bench, scaler = make_bench(made), scaler_of(made)
    scaled = scaler.scale(panel, HORIZON)
    generator = np.random.default_rng(0)
    spread = np.array([-0.3, -0.1, 0.0, 0.1, 0.3])
    trained = []
    for number, one in enumerate(contenders(made.data_set)):
        model, training = at_centre(only(made.data_set, one), scaled)
        truth = np.nan_to_num(bench.y_WH, nan=float(np.nanmean(bench.y_WH)))[..., None]
        forecasts = [
            truth + generator.normal(0, 0.1 + 0.02 * number, truth.shape) + spread for _ in range(seeds)
        ]
        cost = Cost(1000 + number, 0.1 * (1 + number), 5000.0, 400.0, 10.0 + number)
        searched = Searched(Recipe(model, training, 3), 0.2 + 0.01 * number, 3, 1, 0, 12.5)
        trained.append(Trained(one.network, one.lookback, cost, searched, forecasts))
    return conclude(made, bench, trained, baselines(made, bench))
