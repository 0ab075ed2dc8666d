"""The wheel and the source archive hold what they need: built here, unpacked, and used without a clone."""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Largest size of the wheel in MiB; the bundled models are nearly all of it.
MOST = 24


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True, capture_output=True
    )
    return folder


def test_the_wheel_explains_a_text(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    assert wheel.stat().st_size < MOST * 2**20
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    command = [sys.executable, "-m", "mambascope", "explain", "Every day Mr. B", "--out", "page.html", "--json"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert '"method": "mamba-lrp"' in ran.stdout
    assert (tmp_path / "page.html").read_text().startswith("<!")
    where = [sys.executable, "-c", "import mambascope; print(mambascope.__file__)"]
    used = subprocess.run(where, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    assert Path(used.strip()).is_relative_to(tmp_path)


@pytest.mark.slow
def test_a_wheel_without_the_zoo_says_how_to_get_a_model(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    command = [sys.executable, "-m", "mambascope", "explain", "a b", "--model", "zoo:copying-mamba2"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "MAMBASCOPE_CACHE": str(tmp_path / "cache")}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    assert "zoo:copying-mamba2" in ran.stderr


def test_both_pass_the_indexs_own_checks(built):
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *built.iterdir()], check=True)


def test_the_source_archive_holds_tests_and_docs(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    for name in (
        "tests/ground/test_wheel.py",
        "docs/methods.md",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CITATION.cff",
    ):
        assert name in names


def test_the_changelog_and_the_citation_are_of_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()
