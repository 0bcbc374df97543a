"""What a night does before it searches: news or none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import yaml
from nights import START, House, walk

from flows.night import Night, open_night
from flows.preparation import nothing_new, prepare

HOURS = 24 * 20


def write(house: House, until: int, wind: float) -> None:
    """Hours with a target, then those for which the wind alone is known."""
    lines = [
        f"{START + timedelta(hours=hour):%Y-%m-%d %H:%M},{value if hour < until else ''},"
        f"{hour % 5 if hour < HOURS else wind}"
        for hour, value in enumerate(walk(HOURS + 12))
    ]
    (house.folder / "made.csv").write_text("\n".join(["time,load,wind", *lines]) + "\n")


def test_of_aggregated_rows_no_step_is_taken_before_it_is_over(tmp_path: Path) -> None:
    """Whatever moment is asked for: the sum of a part of a step is no step's."""
    house = House(tmp_path)
    house.declare("made")
    house.write("made", HOURS + 1)
    for frequency, aggregate in (("2h", "sum"), ("h", None)):
        house.entries["made"] |= {"frequency": frequency, "aggregate": aggregate}
        house.catalog.write_text(yaml.safe_dump(house.entries))
        before = datetime.now(UTC)
        for ahead in (0, 1, 500):
            night = open_night(house.settings, "made", before + timedelta(hours=ahead))
            end = night.data_set.grid.shift(night.as_of, 1)
            if aggregate:
                moments = [np.datetime64(m.replace(tzinfo=None)) for m in (before, datetime.now(UTC))]
                assert end in [night.data_set.grid.floor(np.array([m]))[0] for m in moments]
            else:
                assert end > np.datetime64((before + timedelta(hours=ahead)).replace(tzinfo=None))
        night = open_night(house.settings, "made", START + timedelta(hours=HOURS - 1))
        step = HOURS - (2 if aggregate else 1)
        assert night.as_of == np.datetime64(START.replace(tzinfo=None), "us") + np.timedelta64(step, "h")


def test_newer_future_covariates_alone_are_no_night_and_it_says_what_takes_them_in(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.declare("made")
    house.entries["made"] |= {"columns": {"wind": "future"}, "staleness": "6h"}
    house.catalog.write_text(yaml.safe_dump(house.entries))

    def night(hours: int) -> Night:
        return open_night(house.settings, "made", START + timedelta(hours=hours - 1))

    write(house, HOURS, 1.0)
    first = night(HOURS)
    first.ledger.begin_night(first.identity)
    content = prepare(first).content
    first.ledger.end_night(first.identity, "kept", "", {"content": content, "run_id": None})
    write(house, HOURS, 2.0)
    second = night(HOURS + 1)
    second.ledger.begin_night(second.identity)
    outcome = nothing_new(second, prepare(second))
    assert outcome is not None
    assert outcome.ending == "skipped"
    assert outcome.reason == (
        "No new data since the night as of 2024-01-20T23:00:00Z, which ended kept. What is newly known ahead "
        "changes forecasts, not the model. To take it in: nightcast forecast made"
    )
    write(house, HOURS + 1, 2.0)
    assert nothing_new(second, prepare(second)) is None
