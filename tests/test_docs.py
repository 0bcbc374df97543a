"""The documentation: links lead somewhere, commands exist, nothing is left out, and the tutorial runs."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import pytest
import torch
import typer
import yaml
from shim import nightcast_first

from data.calendar import Frequency
from data.catalog import DataSet, Files, Gaps, Query, default_seasons, load_catalog
from data.retrain import Budget, Interval, Margins, Retrain, SearchSpace, defaults
from flows.cli import app
from lstm.kernels import reference
from lstm.promotion.records import Ending
from lstm.settings import BRIEF_WAIT, TELEMETRY_OFF, Settings

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "data" / "samples" / "README.md"])
HOSTS = {"127.0.0.1", "localhost", "keepachangelog.com", "doi.org", "creativecommons.org"}

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text()) if kind == language]


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    titles = HEADING.findall(BLOCK.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands() -> Iterator[tuple[str, list[str]]]:
    """Page and words of every command in the shell blocks and in the running text."""
    for page in PAGES:
        lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
        for text in (*lines, *re.findall(r"`((?:make|nightcast|prefect|mlflow) [^`]+)`", page.read_text())):
            try:
                words = shlex.split(text, comments=True)
            except ValueError:  # a line of a here-document
                continue
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words:
                yield page.name, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_images_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert found.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_no_machine_and_few_hosts(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"(?<![\w.])/(?:tmp|root|home|Users|work)/", text)
    for url in re.findall(r"\w+://[^\s`'\"<>)]+", text):
        host = urlsplit(re.sub(r"\$\{\w+\}", "secret", url)).hostname or "localhost"
        assert host == "..." or host in HOSTS or host.endswith(".example.com"), url


def test_pictures_are_small_and_all_in_use() -> None:
    named = {(page.parent / target).resolve() for page in PAGES for target in LINK.findall(page.read_text())}
    for picture in (ROOT / "docs" / "images").rglob("*.*"):
        assert picture.stat().st_size < 150_000
        assert picture.resolve() in named


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[1] for _, words in commands() if words[0] == "make"}
    assert {"demo", "test"} <= named <= targets


def test_nightcast_commands_and_options_exist() -> None:
    tree: Any = typer.main.get_command(app)
    named = [(page, words[1:]) for page, words in commands() if words[0] == "nightcast"]
    assert len(named) > 20
    for page, words in named:
        command, rest = tree, list(words)
        while rest and hasattr(command, "commands"):
            if rest[0].startswith("-"):
                break
            assert rest[0] in command.commands, f"{page}: nightcast {' '.join(words)}"
            command = command.commands[rest.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        options = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert options <= known, f"{page}: nightcast {' '.join(words)}"


def test_every_nightcast_command_is_documented() -> None:
    tree: Any = typer.main.get_command(app)
    names = {name for name in tree.commands if name != "data"}
    names |= {f"data {name}" for name in tree.commands["data"].commands}
    text = "\n".join(page.read_text() for page in PAGES)
    assert [name for name in sorted(names) if f"nightcast {name}" not in text] == []


def test_deployments_and_entry_points_exist() -> None:
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    deployments = {f"{entry['entrypoint'].rpartition('.')[2]}/{entry['name']}" for entry in declared}
    entries = set(yaml.safe_load((ROOT / "mlproject.yaml").read_text())["entry_points"])
    for page, words in commands():
        if words[:3] == ["prefect", "deployment", "run"]:
            assert words[3] in deployments, page
        if words[:2] == ["mlflow", "run"]:
            assert words[words.index("-e") + 1] in entries, page
    assert all(name in (ROOT / "docs" / "operations.md").read_text() for name in deployments)


@pytest.mark.parametrize(
    "model",
    [DataSet, Files, Query, Gaps, Retrain, Budget, Margins, SearchSpace, Interval],
    ids=lambda m: m.__name__,
)
def test_every_catalog_key_is_explained(model: Any) -> None:
    text = (ROOT / "docs" / "catalog.md").read_text()
    keys = re.findall(r"`([\w.:]+)`", text)
    named = {part for key in keys for part in re.split(r"[.:]", key)}
    assert set(model.model_fields) <= named


@pytest.mark.parametrize("page", ["README.md", "docs/catalog.md"])
def test_catalog_examples_are_valid(page: str, tmp_path: Path) -> None:
    examples = blocks(ROOT / page, "yaml")
    assert examples
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.yaml"
        path.write_text(example)
        assert load_catalog(path).data_sets


@pytest.mark.parametrize("frequency", ["h", "D", "W", "MS"])
def test_defaults_by_frequency_are_as_written(frequency: str) -> None:
    text = (ROOT / "docs" / "catalog.md").read_text()
    row = next(
        line for line in text.splitlines() if re.match(rf"\|[^|]*`{frequency}` \| .*`\d+w` each", line)
    )
    cells = [re.findall(r"\d+", cell) for cell in row.strip("|").split("|")]
    filled = Retrain.model_validate(defaults(Frequency(frequency)))
    space = filled.search_space
    spans = [filled.validation.removesuffix("w")]
    expected = [[filled.horizon], spans, [filled.max_epochs]]
    expected += [
        space.lookback,
        space.segment_length,
        space.hidden_size,
        space.batch_size,
        default_seasons(Frequency(frequency)),
    ]
    assert cells[1:] == [[str(value) for value in values] for values in expected]


def test_every_setting_is_explained_and_no_other_one_named() -> None:
    known = {f"NIGHTCAST_{name.upper()}" for name in Settings.model_fields}
    operations = (ROOT / "docs" / "operations.md").read_text()
    assert {name for name in (*known, *TELEMETRY_OFF, *BRIEF_WAIT) if f"`{name}`" not in operations} == set()
    named = {name for page in PAGES for name in re.findall(r"NIGHTCAST_\w+", page.read_text())}
    assert named <= known


def test_every_ending_says_what_to_do() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    assert [
        ending for ending in get_args(Ending) if not re.search(rf"^\| {ending} \|", text, re.MULTILINE)
    ] == []


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[\[<>=,]", requirement)[0] for requirement in project["dependencies"]]
    table = re.findall(r"^\| `([\w-]+)` \| \S", (ROOT / "docs" / "decisions.md").read_text(), re.MULTILINE)
    assert table == sorted(names)


def test_the_readme_says_what_is_where() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    command = ["git", "ls-files"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top = {file.split("/")[0] for file in files} - {"README.md"}
    text = (ROOT / "README.md").read_text()
    assert [name for name in sorted(top) if f"]({name})" not in text] == []


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name
)
def test_python_runs_as_it_is_written(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block after block, as in one session in the checkout; what a page asserts is so."""
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for number, block in enumerate(blocks(page, "python")):
            exec(compile(block, f"{page.name}, block {number + 1}", "exec"), names)


def test_the_page_on_the_lstm_shows_the_reference_cell() -> None:
    [shown] = [block for block in blocks(ROOT / "docs" / "lstm.md", "python") if "def lstm_step" in block]
    own = inspect.getsource(reference.lstm_step)
    lines = shown.partition("def lstm_step")[2].splitlines()[1:-1]
    assert len(lines) == 6
    for line in lines:
        assert line.replace(" linear(", " _linear(") in own


@pytest.mark.slow
def test_the_pictures_of_the_page_on_the_lstm_are_made(tmp_path: Path) -> None:
    """Of a network that has learned for one epoch only."""
    spec = spec_from_file_location("lstm_pictures", ROOT / "docs" / "lstm_pictures.py")
    assert spec is not None
    assert spec.loader is not None
    program = module_from_spec(spec)
    spec.loader.exec_module(program)
    program.EPOCHS = 1  # type: ignore[attr-defined]
    program.main(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(made) == {path.name for path in (ROOT / "docs" / "images").glob("lstm-*.png")}
    assert all(picture.startswith(b"\x89PNG") for picture in made.values())


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path, lived_in: Path) -> None:
    """Every command of the tutorial, in order, in one shell's folder; what it states is what comes out."""
    folder = tmp_path / "shell"
    shutil.copytree(lived_in, folder / "nights")
    with nightcast_first(tmp_path / "bin") as path:
        follow(ROOT / "docs" / "tutorial.md", folder, path)
    assert (folder / "tomorrow.png").read_bytes().startswith(b"\x89PNG")


def follow(page: Path, folder: Path, path: str) -> None:
    parts = BLOCK.findall(page.read_text())
    ours = ("NIGHTCAST_", "PREFECT_", "MLFLOW_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"PATH": path, "COLUMNS": "80", "DO_NOT_TRACK": "true", "OMP_NUM_THREADS": "1"}
    (exports, first), printed = parts[0], ""
    assert exports == "bash"
    for kind, text in parts[1:]:
        if kind == "bash":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", first + text],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            printed = done.stdout
        else:
            stated, said = words_of(text), words_of(printed)
            assert len(stated & said) >= 0.9 * len(stated), stated - said
            for ending in get_args(Ending):
                assert (ending in stated) == (ending in said)


def words_of(text: str) -> set[str]:
    """Words without the numbers, which differ from machine to machine."""
    return set(re.findall(r"\b[a-z_]{3,}\b", text.lower()))


def test_readme_has_every_file_in_one_line() -> None:
    """The first sentence of each module, so that the two never say different things."""
    readme = (ROOT / "README.md").read_text()
    paths = [path for room in ("data", "flows", "lstm") for path in (ROOT / room).rglob("*.py")]
    missing = []
    for path in paths:
        text = ast.get_docstring(ast.parse(path.read_text()))
        if text is None:
            assert not path.read_text(), f"{path} has no docstring"
            continue
        sentence = re.split(r"(?<=[.?])\s", text, maxsplit=1)[0].replace("\n", " ").replace("``", "`")
        name = path.relative_to(ROOT).as_posix()
        if f"- [`{name}`]({name}): {sentence}\n" not in readme:
            missing.append(f"- [`{name}`]({name}): {sentence}")
    assert missing == []
    named = re.findall(r"^- \[`([^`]+\.py)`\]", readme, re.MULTILINE)
    assert [name for name in named if not (ROOT / name).exists()] == []
