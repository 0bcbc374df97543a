"""Public holidays of a country or a part of it, from the `holidays` package, which is imported when asked."""

from __future__ import annotations

import difflib

import numpy as np

from data.panel import Booleans, Integers


def check_code(code: str) -> None:
    """Refuse what is no country, or none of its subdivisions.

    Args:
        code: ``FR``, or ``DE-BY`` with a subdivision: ISO 3166.

    Raises:
        ValueError: there are no holidays of that name; names the nearest ones.
    """
    import holidays

    country, hyphen, part = code.partition("-")
    parts = holidays.list_supported_countries(include_aliases=False)
    if country not in parts:
        near = difflib.get_close_matches(country.upper(), parts, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"no holidays of a country {country!r} are known{hint}; write it as in FR or DE-BY")
    if hyphen and part not in parts[country]:
        have = ", ".join(parts[country]) or "none"
        raise ValueError(f"no holidays of a part {part!r} of {country} are known; it has {have}")


def is_holiday(code: str, days: Integers) -> Booleans:
    """Whether each of these local days, counted from 1970-01-01, is a public holiday.

    Args:
        code: as of `check_code`.
        days: in any order, at least one.
    """
    import holidays

    country, _, part = code.partition("-")
    dates = days.astype("datetime64[D]")
    first, last = (int(str(date.astype("datetime64[Y]"))) for date in (dates.min(), dates.max()))
    known = holidays.country_holidays(country, subdiv=part or None, years=range(first, last + 1))
    return np.isin(dates, np.array(sorted(known), dtype="datetime64[D]"))
