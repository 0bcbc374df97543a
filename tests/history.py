"""Whole nights of a tiny data set, without a server of our own: one history, told from the first night on.

Each night is run once, when a test first asks for it or for a later one, in the house of the tests' module.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import nursery
import pytest
from nights import START, House
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_HOME, temporary_settings
from prefect.states import Running

from data.processes import Process, this_process
from flows import embedded, leash
from flows.night import NightLost
from flows.retrain import retrain
from flows.sweep import KEPT_LOGS, TAG
from lstm.promotion.identity import Identity

HOURS = 28 * 24
LATER = HOURS + 48


@dataclass
class Told:
    """A night as its flow tells it, and the stores right after it."""

    state: object
    result: dict
    champion: object
    aliases: dict
    forecasts: dict
    entry: object


class Teller:
    """Runs nights in this process."""

    def __init__(self, house, patch):
        self.house = house
        self.patch = patch

    def night(self, **parameters):
        for name, value in self.house.environment.items():
            self.patch.setenv(name, value)
        state = retrain(data_set="made", return_state=True, workers=1, **parameters)
        ledger = self.house.ledger
        result = state.result(raise_on_failure=False)
        return Told(
            state=state,
            result=result.outcome.to_dict() if isinstance(result, NightLost) else result,
            champion=ledger.champion("made"),
            aliases=self.house.aliases("made"),
            forecasts=self.house.forecasts("made"),
            entry=ledger.decisions("made", 1)[0],
        )


@pytest.fixture(scope="module")
def teller(tmp_path_factory, lived_in):
    house = House(tmp_path_factory.mktemp("night"), lived_in)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.setenv("PREFECT_HOME", str(house.home / "prefect"))
        patch.setattr(leash, "start", nursery.start)
        server = embedded.start(house.home)
        with temporary_settings({PREFECT_HOME: house.home / "prefect"}), server.used():
            yield Teller(house, patch)


@pytest.fixture(scope="module")
def first(teller):
    """The first night, with its end set before rows that no night could accept."""
    teller.house.declare("made")
    teller.house.write("made", LATER, poison_after(HOURS))
    return teller.night(as_of=START + timedelta(hours=HOURS - 1))


@pytest.fixture(scope="module")
def again(teller, first):
    """The same night once more."""
    return teller.night(as_of=START + timedelta(hours=HOURS - 1))


@flow
def some_flow():
    """Stands for any flow of this house."""


@dataclass
class Debris:
    """What killed processes have left: flow runs by what should become of them, and a night."""

    crashed: object
    alive: object
    night: Identity


@pytest.fixture(scope="module")
def debris(teller, again):
    """The night was killed after it had promoted; others before they had a result."""
    house, [forecast] = teller.house, teller.house.settings.forecasts.glob("made/*.parquet")
    forecast.unlink()
    house.mlflow.update_run(again.result["run_id"], status="RUNNING")
    dead = f"{TAG}{Process(this_process().host, 2**22 + 1, 0.0)}"
    with get_client(sync_client=True) as client:
        tags = ([dead], [dead, f"{TAG}{this_process()}"])
        runs = [client.create_flow_run(some_flow, tags=some, state=Running()).id for some in tags]
    unended = Identity("made", "2024-01-27T23:00:00Z", "0123456789ab")
    house.ledger.begin_night(unended)
    for number in range(KEPT_LOGS + 3):
        (house.home / "logs" / f"made.{20230101 + number}T000000Z.0123456789ab").mkdir()
    return Debris(*runs, unended)


@pytest.fixture(scope="module")
def completed(teller, debris):
    """The same night once more."""
    return teller.night(as_of=START + timedelta(hours=HOURS - 1))


@pytest.fixture(scope="module")
def without_news(teller, completed):
    """An hour later, with no row that was not there before, after a night whose run was left open."""
    teller.house.mlflow.update_run(completed.result["run_id"], status="RUNNING")
    teller.house.write("made", HOURS)
    return teller.night(as_of=START + timedelta(hours=HOURS))


@pytest.fixture(scope="module")
def broken(teller, without_news):
    """Two days later; the newest rows are broken. From now on a version is an ensemble."""
    teller.house.declare("made", ensemble=True)
    teller.house.write("made", LATER, poison_after(LATER - 5))
    return teller.night()


@pytest.fixture(scope="module")
def mended(teller, broken):
    """The same night; the rows are right now."""
    teller.house.write("made", LATER)
    return teller.night()


@pytest.fixture(scope="module")
def without_device(teller, mended):
    """An hour later, on a device that this machine does not have."""
    teller.house.write("made", LATER + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setitem(teller.house.environment, "NIGHTCAST_DEVICE", "cuda")
        return teller.night()


@pytest.fixture(scope="module")
def other_horizon(teller, without_device):
    """The same night, for another horizon than the champion's."""
    teller.house.declare("made", horizon=5)
    told = teller.night()
    teller.house.declare("made")
    return told


@pytest.fixture(scope="module")
def damaged(teller, other_horizon):
    """The same night; the champion's weights have changed on the disk."""
    [path] = [
        path
        for path in champion_files(teller.house, other_horizon.champion.version)
        if path.name == "judged.safetensors"
    ]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    told = teller.night()
    path.write_bytes(whole)
    return told


def poison_after(hours):
    def change(lines):
        lines[hours:] = [line.split(",")[0] + ",inf" for line in lines[hours:]]

    return change


def champion_files(house, version):
    model = house.mlflow.get_model_version("made", version).source.rpartition("/")[2]
    [folder] = house.settings.artifacts.glob(f"made/models/{model}")
    return [path for path in folder.rglob("*") if path.is_file()]
