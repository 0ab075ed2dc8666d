"""Every block of code in the README and in docs/ runs as printed, notebooks too."""

import itertools
import re
import shlex
import sys
import tomllib
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from mambascope.cli import main
from mambascope.families import FAMILIES
from mambascope.methods import METHODS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROSE = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "training" / "README.md", *sorted((ROOT / "zoo").rglob("*.md"))]
FENCE = re.compile(r"^```([\w{}-]*)[^\n]*\n(?::\w+:[^\n]*\n)*(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON, SHELL, TEXT, CELL = "python", "sh", "text", "{code-cell}"
SPHINX = {"{toctree}", "{include}", "{eval-rst}"}


def blocks(page, language):
    return [code for found, code in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


def commands(page):
    """Return the lines of a page's shell blocks, as the shell would split them."""
    lines = [line for code in blocks(page, SHELL) for line in code.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


#: Every command of ours once, in the order of the pages.
OURS = list(dict.fromkeys(tuple(words) for page in PAGES for words in commands(page) if words[0] == "mambascope"))


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder to write in from which a clone's pictures are found by the names that the pages use."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def exit_code():
    try:
        main()
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_say_what_they_are(page):
    text = page.read_text(encoding="utf-8")
    assert {language for language, _ in FENCE.findall(text)} <= {PYTHON, SHELL, TEXT, CELL, *SPHINX}
    outside = FENCE.sub("", text)
    assert not re.search(r"^ {4,}(mambascope|python|pip|make|import) ", outside, re.MULTILINE), "code stands in a fence"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, PYTHON)], ids=lambda page: page.name)
def test_python_runs_as_printed(page, elsewhere, capsys):
    """All blocks of a page one after the other, as a reader would type them."""
    space = {}
    for code in blocks(page, PYTHON):
        exec(compile(code, page.name, "exec"), space)
    assert "mamba-lrp" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, CELL)], ids=lambda page: page.stem)
def test_notebooks_run_as_printed(page, monkeypatch):
    """All cells of a page one after the other, where Jupyter runs them: in the page's folder."""
    monkeypatch.chdir(page.parent)
    monkeypatch.setattr(sys, "path", [*sys.path])
    space = {}
    try:
        for code in blocks(page, CELL):
            exec(compile(code, page.name, "exec"), space)
    finally:
        plt.close("all")
        METHODS.pop("projection", None)
        FAMILIES.pop("transformers.models.phi.modeling_phi.PhiAttention", None)


def test_commands_run_as_printed(elsewhere, monkeypatch, capsys):
    """All commands of all pages in their order: some read what another wrote."""
    assert len(OURS) > 8
    for words in OURS:
        monkeypatch.setattr(sys, "argv", list(words))
        code = exit_code()
        assert code == 0, f"{shlex.join(words)}: {capsys.readouterr().err}"
        for option, name in itertools.pairwise(words):
            assert option != "--out" or (elsewhere / name).exists(), f"{shlex.join(words)} wrote no {name}"


def test_targets_and_extras_that_are_named_exist():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for target in set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    for extra in set(re.findall(r"(?:mambascope|\.)\[(\w+)\]", text)):
        assert extra in settings["optional-dependencies"], extra
    tried = re.search(r"^EXTRAS = none (.*)$", makefile, re.MULTILINE)
    assert tried, "make test-extras tries every extra by itself"
    assert set(tried[1].split()) == set(settings["optional-dependencies"]) - {"dev"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_folders_that_are_named_exist(page):
    """A path is read from the repository, the package, `tests/`, `training/`, or the page's own folder."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    paths = re.findall(r"`([\w-]+(?:/[\w.-]+)*(?:/|\.(?:pyi?|md|c|json|toml)))`", text)
    folders = (ROOT, ROOT / "src" / "mambascope", ROOT / "tests", ROOT / "training", page.parent)
    names = {path.name for path in (ROOT / "src").rglob("*.py")}
    made = {"runs/", "build/docs/", "index.html", "build/fuzz/findings.json"}  # by the commands
    stale = [path for path in paths if not any((folder / path).exists() for folder in folders)]
    assert [path for path in stale if path not in names | made] == []
