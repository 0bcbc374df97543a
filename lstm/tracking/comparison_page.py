"""A comparison as one HTML file that needs nothing else: words first, then the table, then pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from lstm.comparison.recommendation import p_value, spoken
from lstm.comparison.results import Comparison, Result
from lstm.evaluation.significance import CONFIDENCE, FEWEST_GROUPS, LEVEL, Estimate
from lstm.tracking import comparison_figures as figures

_STYLE = """
:root { --paper: #ffffff; --ink: #1f2430; --faint: #5b6370; --line: #e5e7eb; --tint: #f5f7fa;
  --mark: #2563eb; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171d; --ink: #e8eaee; --faint: #a3abb8; --line: #2d333d; --tint: #1c2129;
    --mark: #7ba4f7; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.35rem; margin: 0; }
h2 { font-size: 1.15rem; margin: 44px 0 2px; }
h3 { font-size: .98rem; margin: 18px 0 0; }
p { margin: 8px 0; max-width: 74ch; }
.faint { color: var(--faint); font-size: .92rem; }
.advice { border-left: 5px solid var(--mark); background: var(--tint); border-radius: 0 8px 8px 0;
  padding: 16px 22px; margin: 20px 0 28px; }
.advice strong.take { display: block; font-size: 1.45rem; line-height: 1.3; margin-bottom: 6px; }
.advice ul { margin: 8px 0 10px; padding-left: 20px; }
.advice li { margin: 4px 0; max-width: 74ch; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: right; padding: 7px 10px; border-bottom: 1px solid var(--line); white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th { color: var(--faint); font-weight: 600; vertical-align: bottom; white-space: normal; line-height: 1.25; }
th:first-child, td:first-child { text-align: left; }
td:last-child.words { text-align: left; white-space: normal; min-width: 26ch; }
tr.taken td { font-weight: 650; background: var(--tint); }
tr.taken .faint { font-weight: 400; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 8px; }
.pair { display: grid; gap: 8px 28px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.pair > div { min-width: 0; }
details { margin-top: 40px; }
summary { cursor: pointer; font-weight: 650; font-size: 1.05rem; margin-bottom: 8px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 560px) {
  main { padding: 18px 14px; }
  dl { grid-template-columns: 1fr; }
  dd { margin-bottom: 8px; }
}
"""

# Plotly draws in fixed colours: what must follow the page's ink is set again when the scheme changes.
_SCRIPT = """
const scheme = window.matchMedia("(prefers-color-scheme: dark)");
function paint() {
  const style = getComputedStyle(document.documentElement);
  const [ink, faint, paper] =
    ["--ink", "--faint", "--paper"].map((name) => style.getPropertyValue(name).trim());
  document.querySelectorAll(".js-plotly-plot").forEach((plot) => {
    const change = {"font.color": faint, "hoverlabel.bgcolor": paper, "hoverlabel.font.color": ink};
    if (plot.layout.updatemenus) {
      change["updatemenus[0].bgcolor"] = paper; change["updatemenus[0].font.color"] = ink;
    }
    Plotly.relayout(plot, change);
    Plotly.Plots.resize(plot);
    const observed = plot.data.findIndex((trace) => trace.name === "observed");
    if (observed >= 0) Plotly.restyle(plot, {"line.color": ink}, [observed]);
  });
}
scheme.addEventListener("change", paint);
paint();
"""


def render(comparison: Comparison, facts: Mapping[str, str]) -> str:
    """The whole page.

    Args:
        facts: what else a reader may ask, by question, such as when it was made and how long it took.
    """
    name, advice = comparison.ground.data_set.name, comparison.recommendation
    sections = [
        _advice(comparison),
        _section(
            "How good each is",
            "Mean absolute error on the judge windows, which nobody has learned from, with "
            f"{CONFIDENCE:.0%} confidence intervals. Good and bad days are the same for all, so the "
            "difference from the best is better known than the errors themselves.",
            _table(comparison),
            _pair(
                ("Error", figures.accuracy(comparison)),
                ("Behind the best", figures.behind(comparison)),
            ),
        ),
        _section(
            "What it forecast",
            "The newest judge windows, one after the other, against what happened. The list chooses the "
            "forecaster.",
            _figure(figures.forecasts(comparison, advice.network), "forecasts"),
        ),
        _section(
            "What a longer lookback gives, and what it costs",
            "Seconds and memory are measured with every network at the same size. Bars of the error reach "
            "from the best to the worst seed.",
            _pair(
                ("Error against lookback", figures.error_by_lookback(comparison)),
                ("Seconds of a training epoch, one thread", figures.seconds_by_lookback(comparison)),
                ("Memory that training adds", figures.memory_by_lookback(comparison)),
                ("Error against the time of one training", figures.error_by_cost(comparison)),
            ),
        ),
        _section(
            "Near and far, and how honest the intervals are",
            "The error of each step ahead; and how often what happened lay inside the widest interval, where "
            "the dashed line is how often it should.",
            _pair(
                ("Error by step ahead", figures.error_by_step(comparison)),
                ("Coverage", figures.coverage(comparison)),
            ),
        ),
        f"<details><summary>Every network at every lookback</summary>{_all(comparison)}</details>",
        f"<details><summary>How it was measured</summary>{_method(comparison)}{_facts(facts)}</details>",
    ]
    title = f"{escape(name)}: which network?"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n<script>{get_plotlyjs()}</script>\n</head>\n"
        f"<body>\n<main>\n<h1>{title}</h1>\n{''.join(sections)}\n</main>\n"
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _advice(comparison: Comparison) -> str:
    advice = comparison.recommendation
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in advice.reasons)
    return (
        f'<p class="faint">{escape(_subtitle(comparison))}</p>'
        f'<div class="advice"><strong class="take">{escape(advice.headline)}</strong><ul>{reasons}</ul>'
        f"<p><strong>How sure: {advice.sureness}.</strong> {escape(advice.because)}</p></div>"
    )


def _subtitle(comparison: Comparison) -> str:
    panel, bench = comparison.ground.panel, comparison.bench
    title = comparison.ground.data_set.title
    first, last = (
        panel.frequency.format(panel.frequency.shift(panel.start, int(step)))
        for step in (bench.windows.steps.min() + 1, bench.windows.steps.max() + bench.y_WH.shape[1])
    )
    return (
        f"{title + '. ' if title else ''}Forecasts of {panel.target}, {bench.y_WH.shape[1]} steps "
        f"({panel.frequency.text}) ahead, judged on {len(bench.windows):,} windows from {first} to {last}."
    )


def _section(title: str, text: str, *content: str) -> str:
    return f'<section><h2>{title}</h2><p class="faint">{text}</p>{"".join(content)}</section>'


def _table(comparison: Comparison) -> str:
    """One row a network, at its lookback."""
    advice = comparison.recommendation
    levels = comparison.bench.levels
    head = ["", "lookback", f"MAE, {CONFIDENCE:.0%} interval", "behind the best", "pinball loss"]
    head += [f"{levels[-1] - levels[0]:.0%} interval holds", "parameters", "seconds an epoch"]
    head += ["MiB that training adds", "forecasts a second"]
    rows = []
    for one in comparison.favourites:
        cost = one.cost
        cells = [
            _swatch(one.network) + escape(spoken(one.network)),
            "" if one.network == "seasonal_naive" else f"{one.lookback}",
            _interval(one.mae),
            _behind(comparison, one),
            f"{one.pinball:.3f}",
            f"{one.coverage:.1%}",
            f"{one.parameters:,}",
            f"{cost.epoch_seconds:.2f}" if cost else "–",
            f"{cost.training_megabytes:.0f}" if cost else "–",
            f"{float(f'{cost.windows_per_second:.2g}'):,.0f}" if cost else "–",
        ]
        taken = ' class="taken"' if one.network == advice.network else ""
        rows.append(f"<tr{taken}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return _html_table(head, rows)


def _interval(mae: Estimate) -> str:
    limits = f"{mae.low:.3f} – {mae.high:.3f}" if np.isfinite(mae.low) else "not known"
    return f'{mae.mean:.3f} <span class="faint">{limits}</span>'


def _behind(comparison: Comparison, one: Result) -> str:
    found = comparison.recommendation.behind.get(one.network)
    if found is None:
        return "best"
    share = found.mean / comparison.favourites[0].mae.mean
    return f'{share:.1%} <span class="faint">{p_value(found.p)}</span>'


def _all(comparison: Comparison) -> str:
    """One row a contender, with what its search found."""
    head = ["", "lookback", "MAE", "seeds", "validation loss", "trials", "searched, s", "configuration"]
    rows = []
    for one in comparison.results:
        cells = [
            _swatch(one.network) + escape(spoken(one.network)),
            f"{one.lookback}",
            f"{one.mae.mean:.4f}",
            " ".join(f"{seed:.4f}" for seed in one.seeds),
            f"{one.validation_loss:.4f}",
            *_searched(one),
        ]
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return _html_table(head, rows)


def _searched(one: Result) -> tuple[str, str, str]:
    found = one.searched
    if found is None:
        return "–", "–", "–"
    model, training = found.recipe.model, found.recipe.training
    words = (
        f"{model.num_layers} x {model.hidden_size} units, segments of {model.segment_length}, dropout "
        f"{model.dropout:.2f}, rate {training.learning_rate:.2g}, batches of {training.batch_size}, "
        f"{found.recipe.epochs} epochs"
    )
    trials = f"{found.finished} finished, {found.pruned} pruned"
    return trials + (f", {found.failed} failed" if found.failed else ""), f"{found.seconds:.0f}", words


def _method(comparison: Comparison) -> str:
    retrain = comparison.ground.data_set.retrain
    groups, seeds = len(comparison.favourites[0].loss_G), max(len(one.seeds) for one in comparison.results)
    counted = f"{seeds} {'seeds' if seeds > 1 else 'seed'}"
    budget = f"{retrain.budget.trials} trials and {retrain.budget.minutes * 60:.0f} seconds on one thread"
    paragraphs = [
        "Every network at every lookback had a search of its own in the data set's space, with the same "
        f"budget, at most {budget}. The trial chosen by validation loss was trained again on train and "
        f"validation together, with {counted}; errors are their mean. A network stands above with the "
        "lookback that validation liked best. The linear model (ridge regression over the lookback) "
        "and the seasonal naive learned from the same span. A network's quantiles are calibrated by the "
        "chosen trial's errors on validation, which it has not learned from, those of linear and naive are "
        "made of their errors there; all adapt to the forecasts before whose horizon is over.",
        "All were judged on the same windows. Neighbouring windows share targets, so they were put into "
        f"{groups} groups of neighbours in time, each at least two horizons long where there is room, and "
        "intervals and tests are Student's t over the groups (Ibragimov and Müller 2010). p values are "
        f"adjusted for the number of comparisons (Holm 1979); above {LEVEL:g} a difference may be chance. "
        "They hold each against the one with the lowest error on these very windows, which luck may have "
        "helped: a value just under the level is weak evidence. "
        f"With fewer than {FEWEST_GROUPS} groups nothing is sure.",
        "Seconds are processor seconds of one thread, of the median epoch. Memory is the largest resident "
        "memory of a fresh process during an epoch, sampled every two milliseconds, less what it held "
        "before. Both are measured at the middle of the search space, so that only network and lookback "
        "differ; so are parameters and forecasts a second.",
    ]
    return "".join(f"<p>{text}</p>" for text in paragraphs)


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    return f"<dl>{rows}</dl>"


def _html_table(head: Sequence[str], rows: Sequence[str]) -> str:
    titles = "".join(f"<th>{title}</th>" for title in head)
    content = f"<thead><tr>{titles}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide"><table>{content}</table></div>'


def _swatch(network: str) -> str:
    return f'<span class="swatch" style="background:{figures.COLOURS.get(network, figures.MUTED)}"></span>'


def _pair(*titled: tuple[str, go.Figure]) -> str:
    """Figures side by side, or one below the other where the page is narrow."""
    made = [
        f"<div><h3>{title}</h3>{_figure(figure, re.sub('[^a-z]+', '-', title.lower()))}</div>"
        for title, figure in titled
    ]
    return f'<div class="pair">{"".join(made)}</div>'


def _figure(figure: go.Figure, name: str) -> str:
    options = {"responsive": True, "displayModeBar": False, "plotlyServerURL": ""}
    html: str = to_html(
        figure, config=options, include_plotlyjs=False, full_html=False, div_id=name, default_width="100%"
    )
    return html
