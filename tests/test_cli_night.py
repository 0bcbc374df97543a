"""A night by the command line: how its end is told, and what a person does on the day after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shells import Shell

from flows.cli.nights import DEMO, _print
from flows.night import Outcome


@pytest.mark.slow
def test_a_night_and_the_day_after(shell: Shell) -> None:
    """The demo as a program asks for it, then what a person does with its champion."""
    night = shell("demo", "--json", "--workers", "1")
    assert night.returncode == 0, night.stderr
    _is_a_night(json.loads(night.stdout))
    stages = {line.split()[0]: float(line.split()[1]) for line in night.stderr.splitlines() if " s" in line}
    assert " ".join(stages) == "start check record search train judge refit register report"
    assert stages["start"] > 0.1  # until a server answers
    for chatter in ("INFO", "mlflow.", "prefect.", "http://"):
        assert chatter not in night.stderr

    request, picture = shell.folder / "request.json", shell.folder / "picture.png"
    made = shell.here(0, "forecast", DEMO, "--request", str(request), "--picture", str(picture))
    assert len(made["forecast"]) == 6
    assert "dataframe_split" in json.loads(request.read_text())
    assert picture.read_bytes().startswith(b"\x89PNG")

    folder = shell.folder / "inside"
    inside = shell.here(0, "explain", DEMO, "--output", str(folder), "--at", "2024-02-05T12:30")
    assert (inside["version"], inside["cell"], inside["at"]) == ("1", "gru", "2024-02-05 12:00+00:00")
    assert set(inside["gates"]) == {"reset_gate", "update_gate"}
    assert set(inside["importance"]["columns"]) == {"load", "hour_of_day", "day_of_week", "day_of_year"}
    assert sorted(path.name for path in folder.iterdir()) == ["gates.png", "gradients.png", "importance.png"]
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in inside["pictures"].values())
    told = shell.invoke("explain", DEMO, "--output", str(folder)).stdout
    assert f"{DEMO}, champion version 1 (GRU), 24 steps up to 2024-02-" in told
    for part in ("update gate", "half forgotten after", "LSTM", "hour of day", "gates.png"):
        assert part in told
    assert (
        "a time from 2024-01-01 23:00+00:00 to"
        in shell.here(1, "explain", DEMO, "--at", "2020-01-01")["error"]
    )
    assert "no series 'x'" in shell.here(1, "explain", DEMO, "--series", "x")["error"]

    assert "no previous version" in shell.here(1, "rollback", DEMO)["error"]
    assert shell.here(0, "retire", DEMO, "--reason", "a [test]")["champion"] is None
    assert "there is no champion" in shell.here(1, "forecast", DEMO)["error"]
    assert "there is no champion" in shell.here(1, "explain", DEMO)["error"]
    assert shell.here(0, "rollback", DEMO)["champion"] == made["version"]

    kinds = [entry["kind"] for entry in shell.here(0, "history")["decisions"]]
    assert kinds == ["rolled back", "retired", "promoted"]
    told = shell.invoke("history", DEMO).stdout
    assert f"version {made['version']} serves since" in told
    assert "a [test]" in told
    assert "Night as of 2024-02-03 00:00+00:00." in told
    assert max(map(len, told.splitlines())) <= 80
    rows = shell.invoke("forecast", DEMO).stdout.splitlines()
    assert [row.split()[0] for row in rows[2:8]] == ["2024-02-10"] * 6


def _is_a_night(outcome: dict[str, Any]) -> None:
    assert outcome["ending"] == "promoted"
    assert set(outcome["scores"]) == {"challenger", "seasonal_naive", "linear"}
    for scores in outcome["scores"].values():
        assert all(isinstance(scores[key], float) for key in ("mae", "mse", "pinball"))
    assert list(outcome["seconds"])[:2] == ["start", "check"]
    assert {"search", "train", "judge", "refit", "register"} <= outcome["seconds"].keys()
    assert outcome["model_version"] == outcome["champion"] == "1"
    assert outcome["tracking_uri"].startswith("sqlite:///")


def test_the_end_is_told_in_eighty_columns(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    scores = {"mae": 0.5, "mse": 0.4, "pinball": 0.2, "coverage": 0.8}
    rivals = ("challenger", "champion", "seasonal_naive", "linear")
    reason = "MAE 0.5000 does not beat the champion's 0.5001 by the margin of 0.5%. " * 2
    outcome = Outcome(
        DEMO,
        "2010-11-19 21:00+01:00",
        "kept",
        reason,
        champion="3",
        run_id="0" * 32,
        tracking_uri="sqlite:///home/mlflow.db",
        scores=dict.fromkeys(rivals, scores),
        findings=("a gap of 9 steps in [load], masked",),
    )
    _print(shell.settings, outcome)
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 80
    lines = [" ".join(line.split()) for line in told.splitlines()]
    for rival in rivals:
        assert f"{rival.replace('_', ' ')} 0.500 0.400 0.200 0.800" in lines
    assert lines[1] == "on the judge windows MAE MSE pinball coverage"
    assert "kept MAE 0.5000 does not beat the champion's 0.5001" in " ".join(lines)
    assert "• a gap of 9 steps in [load], masked" in lines
    for where in (f"nightcast forecast {DEMO}", f"nightcast history {DEMO}", "nightcast up"):
        assert where in told


def test_a_first_night_that_keeps_has_no_forecast_to_look_at(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    _print(shell.settings, Outcome(DEMO, "now", "refused", "Stale."))
    told = capsys.readouterr().out
    assert "refused  Stale." in told
    assert "nightcast forecast" not in told
    assert "MAE" not in told
    assert "traceback" not in told
    _print(shell.settings, Outcome(DEMO, "now", "failed", "ValueError: odd."))
    assert "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL=ERROR" in capsys.readouterr().out
