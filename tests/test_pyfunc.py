"""The model as MLflow serves it: the same numbers, on its own code, and nothing damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from bundles import HORIZON, LOOKBACK, MakePanel, make_bundle, two_series

from data.panel import Panel
from lstm.tracking.bundle_files import BundleError, save
from lstm.tracking.forecast import rows_of
from lstm.tracking.registry import save_model, signature


@pytest.fixture
def panel(make_panel: MakePanel) -> Panel:
    return two_series(make_panel)


@pytest.fixture
def model(panel: Panel, tmp_path: Path) -> Path:
    bundle = make_bundle(panel, series="id")
    digest = save(bundle, tmp_path / "bundle")
    save_model(bundle, digest, tmp_path / "bundle", panel, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
# MLflow looks at zoned datetimes in a way that pandas deprecates.
@pytest.mark.filterwarnings("ignore:Series.values returning an ndarray:pandas.errors.Pandas4Warning")
def test_served_model_gives_the_same_numbers(panel: Panel, model: Path) -> None:
    bundle = make_bundle(panel, series="id")
    wanted = bundle.forecast(panel).to_frame()
    served = mlflow.pyfunc.load_model(str(model))
    rows = rows_of(panel, bundle.layout, bundle.history)
    pd.testing.assert_frame_equal(served.predict(rows), wanted)
    as_times = rows.assign(when=pd.to_datetime(rows["when"], utc=True))
    pd.testing.assert_frame_equal(served.predict(as_times), wanted)
    shuffled = rows.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(served.predict(shuffled), wanted)
    assert served.metadata.signature == signature(bundle)
    example = served.input_example
    assert set(example["id"]) == {"a"}
    pd.testing.assert_frame_equal(served.predict(example), wanted[wanted["series"] == "a"])


@pytest.mark.parametrize("members", [1, 3])
def test_the_served_class_itself(panel: Panel, tmp_path: Path, members: int) -> None:
    # At the top it would come before the import that silences MLflow's own warning.
    from lstm.tracking.pyfunc import ForecastModel

    bundle = make_bundle(panel, series="id", members=members)
    digest = save(bundle, tmp_path)
    context = mlflow.pyfunc.PythonModelContext({"bundle": str(tmp_path)}, {"digest": digest})
    model = ForecastModel()
    model.load_context(context)
    rows = rows_of(panel, bundle.layout, bundle.history)
    pd.testing.assert_frame_equal(model.predict(context, rows), bundle.forecast(panel).to_frame())
    other = mlflow.pyfunc.PythonModelContext({"bundle": str(tmp_path)}, {"digest": "0"})
    with pytest.raises(BundleError):
        ForecastModel().load_context(other)


@pytest.mark.slow
def test_served_model_refuses_other_files(model: Path) -> None:
    path = model / "artifacts" / "bundle" / "served.safetensors"
    intact = path.read_bytes()
    path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    with pytest.raises(BundleError, match="damaged or changed"):
        mlflow.pyfunc.load_model(str(model))


@pytest.mark.slow
def test_served_model_carries_its_own_code(panel: Panel, model: Path, tmp_path: Path) -> None:
    """It runs where Nightcast is not installed, on nothing but what its requirements name."""
    rows = rows_of(panel, make_bundle(panel, series="id").layout, LOOKBACK)
    rows.to_json(tmp_path / "rows.json", orient="records")
    code = f"""
import importlib.metadata as metadata
import sys
# As where it is not installed: no path, no finder of an editable installation.
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
sys.path = [path for path in sys.path if path and path != "{Path.cwd()}"]
import mlflow.pyfunc
import pandas as pd
model = mlflow.pyfunc.load_model("{model}")
print(len(model.predict(pd.read_json("{tmp_path}/rows.json", orient="records", convert_dates=False))))
import data
import lstm.tracking.bundle
print(data.__file__)
print(lstm.tracking.bundle.__file__)
print("optuna" in sys.modules, "prefect" in sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    count, data_file, lstm_file, heavy = done.stdout.strip().splitlines()[-4:]
    assert count == str(2 * HORIZON)
    assert data_file == str(model / "code" / "data" / "__init__.py")
    assert lstm_file == str(model / "code" / "lstm" / "tracking" / "bundle.py")
    assert heavy == "False False"
    assert not list((model / "code").rglob("*.parquet"))
    requirements = (model / "requirements.txt").read_text().split()
    assert all("==" in line and "+" not in line for line in requirements)
