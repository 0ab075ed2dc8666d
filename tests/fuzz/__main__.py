"""`python -m fuzz`: run targets for some minutes, run the kept cases again, or keep what was found."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

HELP = "replay: the kept cases, or those in --findings; check: replay, then run; keep: add findings to the kept cases"
FINDINGS = Path("build/fuzz/findings.json")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("action", choices=["run", "replay", "check", "keep"], help=HELP)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to run, over all targets")
    parser.add_argument("--seed", type=int, default=0, help="the first seed of every target")
    parser.add_argument("--cases", type=int, default=None, help="run so many new cases of every target instead")
    parser.add_argument("--targets", default="", help="names, separated by commas; by default all")
    parser.add_argument("--findings", type=Path, default=None, help=f"the file of findings; by default {FINDINGS}")
    asked = parser.parse_args(arguments)
    from .findings import KEPT, keep, store, stored  # after the environment is set

    findings = asked.findings or FINDINGS
    if asked.action == "keep":
        print(f"kept      {keep(stored(findings))} more")
        return 0
    began = time.monotonic()
    from .driver import Tally, run_for, run_slice
    from .targets import TARGETS
    from .targets.command import good

    good()
    prepare()
    chosen = [TARGETS[name.strip()] for name in asked.targets.split(",")] if asked.targets else list(TARGETS.values())
    print(f"ready     after {time.monotonic() - began:.0f} s: {len(chosen)} targets", flush=True)
    tally = Tally()
    if asked.action != "run":
        kept = stored(KEPT if asked.findings is None or asked.action == "check" else asked.findings)
        for target in chosen:
            cases = [one.case for one in kept if one.target == target.name]
            done = 0
            while done < len(cases):  # a case that ends its process is followed by another process
                done += run_slice(target, range(done, len(cases)), 3600, tally, cases=cases, say=say)
    if asked.action != "replay":
        if asked.cases is None:
            run_for(chosen, 60 * asked.minutes, asked.seed, tally, say=say)
        else:
            for target in chosen:
                run_slice(target, range(asked.seed, asked.seed + asked.cases), 3600, tally, say=say)
        store(findings, tally.findings)
        print(f"findings  {findings}")
    print(f"\n{tally.table()}")
    return 1 if tally.counts else 0


def say(line: str) -> None:
    print(line, flush=True)


def prepare() -> None:
    """Make the good models and files, and import what cases will need, before any process is forked."""
    import captum.attr  # noqa: F401
    import matplotlib.pyplot as plt
    import peft  # noqa: F401
    import xarray  # noqa: F401

    from . import originals

    originals.quiet()
    for name in (*originals.TEXT, *originals.PICTURE):
        originals.model(name)
    for made in (
        originals.attributions,
        originals.toy_rows,
        originals.released,
        originals.sharded,
        originals.mamba_ssm,
    ):
        made()
    originals.pickled_checkpoint()
    _warm_up()
    plt.close("all")
    gc.collect()
    gc.freeze()  # so that forked processes share the memory


def _warm_up() -> None:
    """Do once what is slow the first time: a process that is forked then starts with it done."""
    import mambascope
    from mambascope.methods import METHODS

    from . import originals
    from .properties import each, verbs
    from .targets.command import invoke

    for name in ("mamba", "gpt2", "vim"):
        model, tokenizer = originals.model(name)
        source = "The cat" if tokenizer else originals.pixels()

        def explained(method: str, given: tuple[Any, ...] = (model, tokenizer, source)) -> Any:
            return mambascope.explain(*given, method=method)

        results = each({method: partial(explained, method) for method in METHODS})
        with tempfile.TemporaryDirectory() as folder:
            verbs(
                results["latim"], Path(folder), formats=("html", "png", "json", "csv", "npz", "safetensors"), draw=True
            )
    for argv in (["models"], ["methods"], ["info", "tiny-mamba"], ["explain", "a"], ["explain", "--help"]):
        invoke(argv, b"", "utf-8")


def environment() -> None:
    """Set what must be set before the package is imported: no network, one thread, and folders of our own."""
    place = tempfile.mkdtemp(prefix="fuzz-home-")
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": place,
        "MPLCONFIGDIR": place,
        "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONHASHSEED": "0",
    }
    os.environ.pop("MAMBASCOPE_DATA", None)


if __name__ == "__main__":
    environment()
    sys.exit(main())
