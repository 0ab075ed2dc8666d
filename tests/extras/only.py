"""`python only.py EXTRA`: in an environment with one extra alone, its features work and the others are refused by name.

`make test-extras` makes the environments: one without extras (`none`), and one for each. A feature that needs an extra
says so in its refusal, so every feature is tried in every environment.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import mambascope
from mambascope.errors import InputError

ROOT = Path(__file__).resolve().parents[2]

#: Extras that are installed together: Ray runs evaluations.
TOGETHER = {"ray": ("evaluate", "ray")}

#: A package of each extra, by which one tells whether it is there: extras may bring each other's packages.
SIGNS = {
    "xarray": ("xarray",),
    "captum": ("captum",),
    "evaluate": ("sklearn", "scipy", "pandas", "pyarrow"),
    "ray": ("ray",),
    "docs": ("sphinx", "myst_nb", "furo", "latex2mathml"),
    "interop": ("bertviz", "captum", "circuitsvis", "pandas", "xarray"),
    "vision": ("PIL", "skimage", "sklearn"),
}


def _explained(method: str = "latim") -> mambascope.Attribution:
    return mambascope.explain(*mambascope.load("tiny-mamba2"), "Anna had a cat.", method=method, progress=False)


def _array() -> None:
    assert _explained().to_xarray().dims == ("layer", "target", "source")


def _gradients() -> None:
    assert _explained("gradient-x-input").scores.any()
    model, _ = mambascope.load("tiny-mamba2")
    mambascope.CaptumAttribution(model, "latim")


def _command(*arguments: str) -> None:
    """Run the command in a process of its own; raises InputError with its sentence where it refuses."""
    done = subprocess.run([sys.executable, "-m", "mambascope", *arguments], capture_output=True, text=True)
    if done.returncode == 2:
        raise InputError(done.stderr)
    done.check_returncode()


def _evaluation(*engine: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = f"{folder}/run"
        asked = ("--methods", "latim", "--models", "tiny-mamba2", "--limit", "2", "--out", run)
        _command("evaluate", "induction", *asked, *engine)
        _command("report", run)


def _pictures() -> None:
    model, processor = mambascope.load(str(ROOT / "zoo" / "vision-digits-vim"))
    picture = mambascope.explain(model, processor, str(ROOT / "docs" / "digits.png"), method="rollout", progress=False)
    assert picture.grid is not None
    from mambascope.evaluate.data.free_photographs import strips

    assert strips("test", 32)


def _frame() -> None:
    assert len(_explained().to_dataframe())


def _other_viewers() -> None:
    import bertviz
    from circuitsvis.attention import attention_heads

    result = _explained()
    assert "attention" in bertviz.head_view(**result.to_bertviz(), html_action="return").data
    assert "layer" in str(attention_heads(**result.to_circuitsvis()))
    _frame()
    _array()
    _gradients()


def _site() -> None:
    for name in SIGNS["docs"]:
        importlib.import_module(name)
    sys.path.insert(0, str(ROOT))
    importlib.import_module("docs.conf")


#: What each extra is for.
FEATURES: dict[str, Callable[[], None]] = {
    "xarray": _array,
    "captum": _gradients,
    "evaluate": _evaluation,
    "ray": lambda: _evaluation("--engine", "ray"),
    "docs": _site,
    "interop": _other_viewers,
    "vision": _pictures,
}


def missing(extra: str) -> list[str]:
    """Return the packages of an extra, and of those that go with it, that are not installed."""
    signs = [sign for one in TOGETHER.get(extra, (extra,)) for sign in SIGNS[one]]
    return [sign for sign in signs if importlib.util.find_spec(sign) is None]


def main(extra: str) -> None:
    """Try every feature here, where one extra, or `none`, is installed; raises AssertionError where one is wrong."""
    assert extra == "none" or not missing(extra), f"{extra} did not bring {missing(extra)}"
    assert _explained().scores.any()
    for name, feature in FEATURES.items():
        absent = missing(name)
        if not absent:
            feature()
            print(f"{extra}: {name} works", flush=True)
        elif name not in ("docs", "interop"):  # our own features, not other programs
            refusal = _refusal(feature)
            named = re.search(r"pip install mambascope\[([a-z,]+)\]", refusal)
            assert named, f"{name} without {absent}: {refusal or 'it worked'}"
            assert set(named[1].split(",")) == set(TOGETHER.get(name, (name,))), refusal
            print(f"{extra}: {name} is refused: {refusal}", flush=True)


def _refusal(feature: Callable[[], None]) -> str:
    """Return the sentence with which a feature is refused; empty if it works."""
    try:
        feature()
    except InputError as refusal:
        return " ".join(str(refusal).split())
    return ""


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    main(sys.argv[1])
