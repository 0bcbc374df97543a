"""The page: one valid file that loads nothing, with words first and every figure."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from comparisons import comparison, declared

from data.panel import Panel
from lstm.tracking.comparison_page import render

MakePanel = Callable[..., Panel]
ALONE = {"meta", "br", "link", "img", "input"}


class Reader(HTMLParser):
    """Reads a page and notes its tags, its text and whatever it would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.loads += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self.ids += [given["id"]] if "id" in given else []
        if tag not in ALONE:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data


@pytest.fixture
def made(make_panel: MakePanel):
    return comparison(make_panel(steps=900, series=("north", "south"), missing=0.05))


def test_a_whole_page_that_loads_nothing(made) -> None:
    page = render(made, {"Made": "today"})
    reader = Reader(page)
    assert page.startswith("<!DOCTYPE html>")
    assert reader.loads == []
    style = "".join(re.findall(r"<style>(.*?)</style>", page, re.DOTALL))
    assert "url(" not in style
    assert "@import" not in style
    assert len(reader.ids) == len(set(reader.ids)) == 9


def test_words_come_first(made) -> None:
    text = re.sub(r"\s+", " ", Reader(render(made, {})).text)
    advice = made.recommendation
    places = [
        text.index(part) for part in (advice.headline, *advice.reasons, advice.because, "How good each is")
    ]
    assert places == sorted(places)
    assert f"How sure: {advice.sureness}." in text
    for one in made.favourites:
        assert f"{one.mae.mean:.3f}" in text


def test_names_from_outside_stay_text(make_panel: MakePanel) -> None:
    title = "<script>alert(1)</script> & co"
    page = render(comparison(make_panel(steps=900), declared(title=title)), {"<b>": "<i>"})
    assert title not in page
    assert title in Reader(page).text
    assert "<i>" not in page


def test_a_page_is_the_same_twice(made) -> None:
    assert render(made, {"Made": "today"}) == render(made, {"Made": "today"})


def test_one_step_ahead_and_too_few_windows_are_drawn_too(make_panel: MakePanel) -> None:
    space = {"lookback": [24], "segment_length": [12]}
    retrain = {"horizon": 6, "validation": "6d", "judge": "6h", "search_space": space}
    page = render(comparison(make_panel(steps=900), declared(retrain=retrain), seeds=1), {})
    assert "not known" in Reader(page).text


def test_what_takes_long_is_imported_where_it_is_used() -> None:
    """Plotly by a page, scikit-learn by fits, what a run needs in the run: others would wait for them."""
    code = (
        "import gc; gc.disable()\n"  # for speed
        "import sys, flows.compare, flows.forecast, flows.retrain, flows.search\n"
        "assert not {'mlflow', 'optuna', 'polars', 'torch'} & set(sys.modules)\n"
        "import lstm.tracking.bundle, lstm.search.worker; assert 'sklearn' not in sys.modules\n"
        "import flows.comparison_steps; assert 'plotly' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
