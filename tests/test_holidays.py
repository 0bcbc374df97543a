"""Public holidays by local day, and which countries there are."""

from __future__ import annotations

import subprocess
import sys
from datetime import date

import numpy as np
import pytest

from data.holidays import check_code, is_holiday


def days(*dates: str) -> np.ndarray:
    return np.array(dates, dtype="datetime64[D]").astype(np.int64)


def test_days_are_holidays_of_the_country() -> None:
    asked = days("2024-05-01", "2024-05-02", "2010-07-14", "2024-12-25", "2023-12-25", "2024-12-26")
    assert is_holiday("FR", asked).tolist() == [True, False, True, True, True, False]


def test_a_subdivision_has_its_own() -> None:
    epiphany = days("2025-01-06")
    assert not is_holiday("DE", epiphany)[0]
    assert is_holiday("DE-BY", epiphany)[0]


def test_days_before_the_epoch_and_far_ahead() -> None:
    asked = np.array([date(1969, 12, 25).toordinal(), date(2040, 12, 25).toordinal()])
    assert is_holiday("FR", asked - date(1970, 1, 1).toordinal()).all()


@pytest.mark.parametrize("code", ["XX", "FRA", "fr", "DE-XX", "", "FR-", "-BY"])
def test_unknown_codes(code: str) -> None:
    with pytest.raises(ValueError, match=r"no holidays of a (country|part)"):
        check_code(code)


def test_the_package_is_imported_only_where_holidays_are_declared() -> None:
    script = (
        "import sys; from data.catalog import load_catalog; load_catalog(); print('holidays' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
