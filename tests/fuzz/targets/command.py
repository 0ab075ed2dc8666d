"""The command, in this process: every verb and option that it has, found by walking its tree of commands."""

from __future__ import annotations

import functools
import io
import itertools
import json
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from unittest import mock

import typer

import mambascope
from mambascope.cli import app, main
from mambascope.evaluate.tasks import TASKS
from mambascope.methods import METHODS

from .. import hostile, originals
from ..findings import BrokenError, Case
from ..properties import require
from ..running import RANDOM, Target

#: Stand for the folder of good files and for the case's own folder.
GOOD, OWN = "{good}", "{own}"
OLD = "an older file"

MODELS = tuple(f"{GOOD}/models/{name}" for name in ("mamba", "mamba", "mamba2", "gpt2", "bert", "vit", "vim", "vim"))
ODD = (
    f"{GOOD}", f"{GOOD}/none", "/dev/null",
    f"{GOOD}/models/vim/config.json", f"{OWN}/a/b", ".", "/",
    "https://x.org/a", "zoo:none", "zoo/copying-mamba2", "a/b", "~", "~nobody/x", f"{GOOD}/pictures/picture.png/x",
)  # fmt: skip
OUTS = tuple(
    f"{OWN}/out{ending}"
    for ending in (".html", ".json", ".csv", ".npz", ".safetensors", ".HTML", ".txt", "", ".png", ".svg", ".md")
)
PICTURES = tuple(f"{GOOD}/pictures/picture.{kind}" for kind in ("png", "jpeg", "gif", "tiff"))

#: Good values of options and arguments, by name. Others are drawn by type.
VALUES: dict[str, tuple[str, ...]] = {
    "text": ("The cat sat", "a", "é 日本", "-", "and/or", *PICTURES, *PICTURES),
    "other": ("The dog sat", "b", "The cat sat on", "-"),
    "model": MODELS,
    "models": (*MODELS, f"{MODELS[-1]},{MODELS[-3]}", f"{MODELS[0]},{MODELS[2]}"),
    "method": tuple(METHODS),
    "methods": ("latim", "random", "latim,random", "rollout, mamba-lrp", "raw-attention,hidden-attention"),
    "target": ("a", " t", "1", "rocket", "9", "The"),
    "foil": ("b", "2", "coffee"),
    "continuation": (" a", "mat", "é"),
    "generate": ("1", "2", "3"),
    "layer": ("0", "1", "-1", "all", "0:1", "0,1", "1:"),
    "position": ("0", "-1", "1"),
    "positions": ("all", "0", "0,1", "0:2", "1:"),
    "patch": ("0,0", "1,2", "3,3"),
    "stage": ("0", "1", "-1"),
    "out": OUTS,
    "tokenizer": (f"{GOOD}/models/mamba", f"{GOOD}/models/bert"),
    "device": ("cpu", "cpu", "cuda", "meta", "cpu:0", "mps"),
    "channels": ("all", "mean", "0", "0,1", "23"),
    "task": (*TASKS, "copying", "induction", "sentiment", "alignment"),
    "data": (
        f"{GOOD}/data/csv/texts.csv",
        f"{GOOD}/data/jsonl/texts.jsonl",
        f"{GOOD}/data/pharaoh/own",
        f"{GOOD}/data/texts/own",
    ),
    "limit": ("1", "2"),
    "shard": ("0/1", "0/2", "1/2"),
    "seed": ("0", "1", "123"),
    "address": ("auto", "127.0.0.1:1"),
    "folders": (f"{OWN}/run", f"{OWN}/run", f"{OWN}/other"),
    "layers_from": (f"{OWN}/run", f"{OWN}/other"),
    "layers_by": ("roc_auc", "conservation_error"),
    "name": ("latim", "capture"),
    "size": ("tiny",),
    "length": ("2", "8", "2,8"),
    "repeats": ("1", "2"),
}
#: Options that are always given, because what is done without them takes long.
SHORT = ("limit", "name", "length", "repeats")
#: Numbers that would be taken at their word, and for ever.
ENDLESS = ("generate", "limit", "length", "repeats")
NUMBERS = (
    "-1",
    "0",
    "7",
    "-100",
    "2147483648",
    "9223372036854775808",
    "1e99",
    "nan",
    "1.5",
    "٣",
    "1_0",
    "",
    " 1",
    "+1",
    "0x1",
    "inf",
)


class Option(NamedTuple):
    """An option or argument of a verb."""

    name: str
    flag: str
    takes_value: bool
    required: bool
    choices: tuple[str, ...]


@functools.cache
def tree() -> dict[str, list[Option]]:
    """Return every verb of the command with its options and arguments."""
    root: Any = typer.main.get_command(app)
    found = {"": [_option(one) for one in root.params]}
    return found | {name: [_option(one) for one in verb.params] for name, verb in root.commands.items()}


def _option(one: Any) -> Option:
    is_option = one.param_type_name == "option"
    choices = tuple(map(str, getattr(getattr(one, "type", None), "choices", ())))
    return Option(
        one.name, max(one.opts, key=len) if is_option else "", not getattr(one, "is_flag", False), one.required, choices
    )


@functools.cache
def good() -> Path:
    """Return a folder with good files of every kind, which no case may change."""
    import tempfile

    place = Path(tempfile.mkdtemp(prefix="fuzz-good-"))
    sets = {f"models/{name}": originals.checkpoint(name) for name in ("mamba", "mamba2", "gpt2", "bert", "vit", "vim")}
    sets |= {"pictures": originals.picture_files(), "run": originals.run_folder()}
    sets |= {f"data/{name}": files for name, files in originals.data_files().items()}
    for folder, files in sets.items():
        for name, content in files.items():
            (place / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (place / folder / name).write_bytes(content)
    return place


def _value(rng: Random, option: Option) -> str:
    value = _any_value(rng, option)
    writes = option.name == "out"  # and only in the case's own folder
    return value if not writes or value.startswith(OWN) else f"{OWN}/{value.replace(GOOD, 'odd').replace('..', 'up')}"


def _any_value(rng: Random, option: Option) -> str:
    valid = VALUES.get(option.name, ()) or option.choices
    odd = rng.random()
    if valid and odd < 0.85:
        return rng.choice(valid)
    if odd < 0.9 and option.name not in ENDLESS:
        return rng.choice(NUMBERS)
    if odd < 0.94:
        return rng.choice(ODD)
    numeric = option.name in ENDLESS
    return rng.choice(("-1", "0", "x", "", "nan", "1e9")) if numeric else rng.choice(hostile.TEXTS)


def _draw(rng: Random) -> Case:
    verbs = ("explain", "explain", "explain", "compare", "maps", "info", "evaluate", "report", *tree())
    verb = rng.choice(verbs)
    argv = [verb] if verb else []
    if rng.random() < 0.02:
        argv = [rng.choice(hostile.TEXTS)]
    for option in tree()[verb]:
        likely = 0.97 if option.required else 0.12
        likely = (
            0.9 if option.name == "model" else 1 if option.name in ("limit", "length", "repeats", "name") else likely
        )
        likely = 0.9 if option.name == "models" and verb == "evaluate" else likely
        likely = 0.02 if option.name in ("compat", "targets", "help") else likely
        if rng.random() >= likely:
            continue
        if not option.flag:
            argv += [_value(rng, option)]
        elif not option.takes_value:
            argv += [option.flag]
        else:
            argv += [option.flag, _value(rng, option)]
    return {
        "argv": argv,
        "input": rng.choice(("The cat sat", "The cat sat\n", "", "\n", "a\x00b", "raw:ff00fe", "x" * 3000, "\ufeffa")),
        "encoding": "utf-8" if rng.random() < 0.93 else rng.choice(("cp1252", "ascii")),
        "old": rng.random() < 0.5,
    }


def invoke(argv: list[str], given: bytes, encoding: str) -> tuple[Any, str, str]:
    """Return the exit code of the command, and what it printed."""
    out, err = io.BytesIO(), io.BytesIO()
    streams = {
        "argv": ["mambascope", *argv],
        "stdin": io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"),
        "stdout": io.TextIOWrapper(out, encoding=encoding, write_through=True),
        "stderr": io.TextIOWrapper(err, encoding=encoding, errors="backslashreplace", write_through=True),
    }
    code: Any = 0
    with mock.patch.multiple(sys, **streams):
        try:
            main()
        except SystemExit as stopped:
            code = 0 if stopped.code is None else stopped.code
    texts = [file.getvalue().decode(encoding, "replace") for file in (out, err)]
    for stream in ("stdin", "stdout", "stderr"):
        streams[stream].detach()
    return code, texts[0], texts[1]


def _check(case: Case, folder: Path) -> None:
    argv = [one.replace(GOOD, str(good())).replace(OWN, str(folder)) for one in case["argv"]]
    asked = {Path(value) for option, value in itertools.pairwise(argv) if option == "--out"}
    if OWN + "/run" in case["argv"]:
        shutil.copytree(good() / "run", folder / "run")
    files = {path for path in asked if path.parent == folder and path.suffix and argv[:1] != ["evaluate"]}
    if case["old"]:
        for path in files:
            path.write_text(OLD)
    before = set(originals.contents(folder))
    text = case["input"]
    given = bytes.fromhex(text[4:]) if text.startswith("raw:") else text.encode("utf-8", "surrogatepass")
    verb = argv[0] if argv and argv[0] in tree() else "no verb"
    code, out, err = invoke(argv, given, case["encoding"])
    _said_well(code, out, err, verb, case["encoding"])
    left = {name for name in set(originals.contents(folder)) - before if not _is_asked(folder / name, asked)}
    left = {name for name in left if not name.startswith("run/report/")}
    require(not left, "file left", f"{verb}: {sorted(left)[:1]} beside what was asked for")
    if code == 0 and not {"-h", "--help", "--version"} & set(argv):
        _did_as_told(argv, out, asked, verb)
    for path in files:
        if code == 2 and case["old"]:
            require(path.is_file(), "lost file", f"{verb}: refused, and the older file is gone")
            held = path.read_bytes()
            require(held == OLD.encode() or _is_whole(path, held), "lost file", f"{verb}: half a {path.suffix} file")


def _is_whole(path: Path, held: bytes) -> bool:
    return len(held) > 50


def _is_asked(path: Path, asked: Iterable[Path]) -> bool:
    return any(path == one or one in path.parents for one in asked)


def _said_well(code: Any, out: str, err: str, verb: str, encoding: str) -> None:
    """Hold what the command prints to what every command must."""
    lines = err.strip().splitlines()
    require(code in (0, 2), "exit code", f"{verb}: {code}")
    require("Traceback (most recent" not in err + out, "badly said", f"{verb}: a traceback is printed")
    if "not enough memory" in err:
        raise BrokenError("memory", f"{verb}: the command says so")
    if code == 2:
        is_usage = "Usage:" in err or "Usage:" in out
        require(
            is_usage or (lines and lines[-1].startswith("mambascope: ")),
            "badly said",
            f"{verb}: refused without a sentence",
        )
        require(is_usage or len(lines[-1]) < 2500, "badly said", f"{verb}: longer than a sentence")
    else:
        odd = [line for line in lines if not line.startswith("mambascope: ")]
        require(not odd, "printed", f"{verb}: {re.sub(r'[0-9/].*', '', odd[0])[:60] if odd else ''}")
        require(bool(out.strip()), "badly said", f"{verb}: nothing is printed")
    control = re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]" if encoding == "utf-8" else r"[\x1b]", out + err)
    require(not control, "control character printed", f"{verb} {'usage' if 'Usage:' in err else ''}")


def _did_as_told(argv: list[str], out: str, asked: set[Path], verb: str) -> None:
    """Require that what was asked for was printed and written."""
    if "--json" in argv:

        def refuse(name: str) -> None:
            raise BrokenError("NaN or infinity", f"{verb}: {name} in --json")

        try:
            json.loads(out, parse_constant=refuse)
        except ValueError as error:
            raise BrokenError("badly said", f"{verb}: --json prints no JSON") from error
    for path in asked:
        require(path.exists(), "lost file", f"{verb}: not written")
        if path.is_file():
            held = path.read_bytes()
            require(bool(held) and held != OLD.encode(), "lost file", f"{verb}: not written over the older one")
            if path.suffix == ".safetensors" and verb == "explain":
                mambascope.Attribution.load(path)


def _smaller(case: Case) -> Iterable[Case]:
    argv = case["argv"]
    for at in range(1, len(argv)):
        yield case | {"argv": argv[:at] + argv[at + 1 :]}
        if argv[at].startswith("--"):
            yield case | {"argv": argv[:at] + argv[at + 2 :]}
    if case["encoding"] != "utf-8":
        yield case | {"encoding": "utf-8"}
    if case["old"]:
        yield case | {"old": False}


TARGETS = [Target("command", _draw, _check, _smaller, RANDOM)]
