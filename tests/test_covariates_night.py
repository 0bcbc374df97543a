"""A night of shops whose promotions are known ahead: from a CSV file to a model that serves."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from nights import START, Command, House, entry

from data.errors import DataRefused
from flows.forecasting import make_forecast
from lstm.tracking.server import global_store

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

HOURS, HORIZON = 40 * 24, 6
KINDS = {"a": "hall", "b": "kiosk", "c": "hall"}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, lived_in: Path) -> House:
    made = House(tmp_path_factory.mktemp("shops"), lived_in)
    for name, hours in (("shops", HOURS + HORIZON), ("short", HOURS + HORIZON - 1)):
        declared = entry(name, max_epochs=12, budget={"trials": 1, "minutes": 5})
        declared |= {"series": "shop", "holidays": "DE-BY"}
        declared["columns"] = {"promotion": "future", "visitors": "past", "kind": "static", "area": "static"}
        made.entries[name] = declared
        write(made, name, hours)
    made.catalog.write_text(yaml.safe_dump(made.entries))
    return made


def write(house: House, name: str, hours: int, kinds: dict[str, str] = KINDS, until: int = HOURS) -> None:
    """Sales follow promotions, which come at random; after `until` only promotions are known."""
    frames = []
    for number, (shop, kind) in enumerate(kinds.items()):
        generator = np.random.default_rng(number)
        promotion = generator.random(HOURS + 24 + HORIZON) < 0.3
        sales = (
            10 * (number + 1)
            + (8 if kind == "hall" else 3) * promotion
            + generator.normal(0, 0.3, promotion.size)
        )
        visitors = generator.normal(5, 1, promotion.size)
        frame = pd.DataFrame(
            {
                "time": [f"{START + timedelta(hours=hour):%Y-%m-%d %H:%M}" for hour in range(promotion.size)],
                "shop": shop,
                "load": sales.round(3),
                "promotion": promotion.astype(int),
                "visitors": visitors.round(3),
                "kind": kind,
                "area": 100.5 + number,
            }
        )
        frame.loc[until:, ["load", "visitors"]] = np.nan
        frames.append(frame[:hours])
    pd.concat(frames).to_csv(house.folder / f"{name}.csv", index=False)


def run(house: House, *arguments: str) -> dict[str, Any]:
    command = Command(house, *arguments, "--json")
    assert command.end(600) == 0, command.text
    result: dict[str, Any] = command.result()
    return result


def test_a_night_learns_what_is_known_ahead(house: House, tmp_path: Path) -> None:
    night = run(house, "retrain", "shops")
    assert night["ending"] == "promoted", night["reason"]
    scores = night["scores"]
    # Who does not know the promotions of the horizon cannot come near.
    assert scores["challenger"]["mae"] < 0.6 * scores["linear"]["mae"]
    forecast = run(house, "forecast", "shops", "--request", str(tmp_path / "request.json"))
    assert len(forecast["forecast"]) == 3 * HORIZON
    body = json.loads((tmp_path / "request.json").read_text())["dataframe_split"]
    rows = pd.DataFrame(body["data"], columns=body["columns"])
    with global_store(house.settings.mlflow_uri):
        model = mlflow.pyfunc.load_model("models:/shops@champion")
    rows = rows.astype({"load": float, "promotion": float, "visitors": float, "area": float})
    served = model.predict(rows)
    made = pd.DataFrame(forecast["forecast"])
    np.testing.assert_allclose(served["q0.5"], made["q0.5"], rtol=1e-6)
    ahead = rows[rows["load"].isna()].reset_index()
    promoted = made["q0.5"][ahead["promotion"] == 1].groupby(made["series"]).mean()
    plain = made["q0.5"][ahead["promotion"] == 0].groupby(made["series"]).mean()
    assert (promoted > plain).all()


def test_a_shop_that_opens_is_learned_while_the_champion_is_judged_on_the_others(house: House) -> None:
    write(house, "shops", HOURS + 24 + HORIZON, {**KINDS, "d": "hall"}, HOURS + 24)
    night = run(house, "retrain", "shops")
    assert night["ending"] in ("promoted", "kept"), night["reason"]
    assert {"challenger", "champion"} <= night["scores"].keys()
    assert any("new series" in finding and "d" in finding for finding in night["findings"])


def test_a_champion_forecasts_nothing_that_it_was_not_made_for(house: House) -> None:
    write(house, "shops", HOURS + 24 + HORIZON, {**KINDS, "a": "mall"}, HOURS + 24)
    with pytest.raises(DataRefused, match=r"'mall', where the model was trained on .*retire the champion"):
        make_forecast(house.settings, "shops")
    stored = house.forecasts("shops")
    for change, words in (
        ({"holidays": "DE-HH"}, "other holidays: DE-BY, now DE-HH"),
        ({"holidays": None}, "other holidays: DE-BY, now None"),
        ({"retrain": house.entries["shops"]["retrain"] | {"horizon": 5}}, "other horizon: 6, now 5"),
    ):
        house.catalog.write_text(yaml.safe_dump(house.entries | {"shops": house.entries["shops"] | change}))
        with pytest.raises(DataRefused, match=f"{words}.*nightcast retire shops"):
            make_forecast(house.settings, "shops")
    assert house.forecasts("shops") == stored


def test_a_night_without_the_horizon_is_refused(house: House) -> None:
    command = Command(house, "retrain", "short", "--json")
    assert command.end(600) == 1, command.text
    result = command.result()
    assert result["ending"] == "refused"
    assert "series a, column promotion, first at 2024-02-10 05:00+00:00" in result["reason"]
    assert "Remedy: give it in rows of these times, whose target stays empty" in result["reason"]
