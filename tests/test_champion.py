"""Champions in the ledger, on SQLite and PostgreSQL: promoted, adopted, rolled back, retired, raced for."""

from __future__ import annotations

from pathlib import Path

import pytest
from ledgers import NEXT, NIGHT, OTHER, promoted, race

from lstm.promotion.database import LedgerError
from lstm.promotion.identity import Identity
from lstm.promotion.ledger import ChampionChanged, Ledger


def test_promotion_compares_before_it_sets(url: str) -> None:
    ledger = Ledger(url)
    assert ledger.champion("power") is None
    promoted(ledger, NIGHT, "1", None)
    first = ledger.champion("power")
    assert first is not None
    assert (first.version, first.previous) == ("1", None)
    ledger.begin_night(NEXT)
    for wrong in (None, "7"):
        with pytest.raises(ChampionChanged, match=f"power: the champion is 1, not {wrong or 'none'}"):
            ledger.promote(NEXT, "2", wrong, "")
    assert ledger.champion("power") == first
    night = ledger.night(NEXT)
    assert night is not None
    assert night.ending is None
    assert ledger.promote(NEXT, "2", "1", "Better.")
    second = ledger.champion("power")
    assert second is not None
    assert (second.version, second.previous) == ("2", "1")
    newest = ledger.decisions("power", limit=1)
    assert [(e.kind, e.version, e.previous, e.night) for e in newest] == [("promoted", "2", "1", NEXT.key)]


def test_a_night_never_promotes_twice(url: str) -> None:
    ledger = Ledger(url)
    promoted(ledger, NIGHT, "1", None)
    promoted(ledger, NEXT, "2", "1")
    ledger.rollback("power", "It was worse live.")
    assert ledger.promote(NEXT, "2", "1", "Again.") is False
    champion = ledger.champion("power")
    assert champion is not None
    assert champion.version == "1"


def test_data_sets_are_apart(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    promoted(ledger, NIGHT, "1", None)
    assert ledger.champion("water") is None
    promoted(ledger, OTHER, "1", None)
    assert len(ledger.decisions("water")) == 1
    assert [entry.data_set for entry in ledger.decisions()] == ["water", "power"]


def test_rollback_walks_back_and_ends(url: str) -> None:
    ledger = Ledger(url)
    with pytest.raises(LedgerError, match="power: there is no previous version"):
        ledger.rollback("power", "")
    promoted(ledger, NIGHT, "1", None)
    with pytest.raises(LedgerError, match="no previous version"):
        ledger.rollback("power", "")
    promoted(ledger, NEXT, "2", "1")
    ledger.adopt("power", "3", "2", "A person chose it.")
    champion = ledger.rollback("power", "Worse.")
    assert (champion.version, champion.previous) == ("2", "1")
    champion = ledger.rollback("power", "Worse still.")
    assert (champion.version, champion.previous) == ("1", None)
    with pytest.raises(LedgerError, match="no previous version"):
        ledger.rollback("power", "")
    kinds = [(entry.kind, entry.version, entry.previous) for entry in ledger.decisions("power")]
    assert kinds[:3] == [("rolled back", "1", "2"), ("rolled back", "2", "3"), ("adopted", "3", "2")]


def test_rollback_goes_by_the_newest_decision_of_a_version(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    promoted(ledger, NIGHT, "1", None)
    promoted(ledger, NEXT, "2", "1")
    ledger.adopt("power", "1", "2", "A person chose it again.")
    promoted(ledger, Identity("power", NEXT.as_of, "third"), "3", "1")
    champion = ledger.rollback("power", "Worse.")
    assert (champion.version, champion.previous) == ("1", "2")


def test_retiring_leaves_no_champion_and_can_be_undone(url: str) -> None:
    ledger = Ledger(url)
    with pytest.raises(LedgerError, match="no champion to retire"):
        ledger.retire("power", "")
    promoted(ledger, NIGHT, "1", None)
    ledger.retire("power", "The sensor is gone.")
    assert ledger.champion("power") is None
    assert ledger.decisions("power")[0].kind == "retired"
    assert ledger.rollback("power", "It is back.").version == "1"


def test_adopting_compares_too(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    with pytest.raises(ChampionChanged):
        ledger.adopt("power", "2", "1", "")
    ledger.adopt("power", "2", None, "By hand.")
    champion = ledger.champion("power")
    assert champion is not None
    assert (champion.version, champion.previous) == ("2", None)


def test_alias_is_remembered(url: str) -> None:
    ledger = Ledger(url)
    assert ledger.alias("power") is None
    ledger.save_alias("power", "1")
    promoted(ledger, NIGHT, "2", None)
    assert ledger.alias("power") == "1"
    ledger.save_alias("power", None)
    assert ledger.alias("power") is None
    champion = ledger.champion("power")
    assert champion is not None
    assert champion.version == "2"


def test_details_must_be_json(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.begin_night(NIGHT)
    with pytest.raises(ValueError, match="JSON compliant"):
        ledger.promote(NIGHT, "1", None, "", {"mae": float("nan")})
    assert ledger.champion("power") is None
    assert ledger.decisions() == ()


@pytest.mark.slow
def test_of_racing_promotions_one_wins(url: str) -> None:
    ledger = Ledger(url)
    for number in range(4):
        ledger.begin_night(Identity("power", NIGHT.as_of, f"hash{number}"))
    body = f"""
    from lstm.promotion.identity import Identity
    from lstm.promotion.ledger import ChampionChanged, Ledger
    try:
        print(Ledger(url).promote(Identity("power", "{NIGHT.as_of}", "hash" + me), me, None, "race"))
    except ChampionChanged:
        print("changed")
    """
    results = race(url, body)
    assert sorted(results) == ["True", "changed", "changed", "changed"]
    champion = ledger.champion("power")
    assert champion is not None
    assert champion.version == str(results.index("True"))


@pytest.mark.slow
def test_of_racing_promotions_of_one_night_one_counts(url: str) -> None:
    ledger = Ledger(url)
    ledger.begin_night(NIGHT)
    body = f"""
    from lstm.promotion.identity import Identity
    from lstm.promotion.ledger import Ledger
    print(Ledger(url).promote(Identity("power", "{NIGHT.as_of}", "{NIGHT.config_hash}"), "5", None, "race"))
    """
    assert sorted(race(url, body)) == ["False", "False", "False", "True"]
    assert len(ledger.decisions()) == 1
