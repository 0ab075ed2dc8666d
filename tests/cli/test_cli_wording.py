"""Messages of the command name the command's options, those of the library its arguments."""

import ast
import inspect
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

import mambascope
from mambascope.cli import main
from mambascope.cli.wording import in_options, options
from small_checkpoint import make_checkpoint

TEXT = "When Mary and John went to the store"
SOURCE = Path(inspect.getfile(mambascope)).parent

#: Arguments that the command has no option for, of functions that it never calls so, and a letter of a file's format.
PYTHON_ONLY = {
    *("mixers", "pixels", "use_cache", "layers", "interpolate_pos_encoding", "return_dict", "snum", "partial"),
    *("width", "length", "keep", "facts"),
    "question",  # the name of a span in an example
}
#: Files whose messages name functions to those who call them; the command reaches none of these.
CALLERS_ONLY = {
    "families/__init__.py",
    "inputs/checks.py",
    "readout.py",
    "readouts.py",
    "theory/matrices.py",
    "trace/running.py",
    "trace/trace.py",
    "explanation/explaining.py",
    "methods/mamba_attribution.py",
    "methods/transformer_attribution.py",
    "attribution.py",
    "show/check.py",
}


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("leave layer='all'", "leave --layer all"),
        ('leave layer="all"', "leave --layer all"),
        ("leave layer='all'.", "leave --layer all."),
        ("pass trust_remote_code=True", "pass --trust-remote-code"),
        ("with tokenizer=…, a folder", "with --tokenizer …, a folder"),
        ("use keep_size=True; or layer=3", "use --keep-size; or --layer 3"),
        ("(use_cache=False)", "(use_cache=False)"),
        ("the text 'layer=3' is one", "the text 'layer=3' is one"),
        ('the text "it\'s layer=3" is one', 'the text "it\'s layer=3" is one'),
        ("a target of x", "a target of x"),
        ("trace.layer=3", "trace.layer=3"),
        ("--layer 3", "--layer 3"),
    ],
)
def test_an_argument_becomes_the_option_that_gives_it(message, says):
    assert in_options(message) == says


def raised():
    """Every message that the package raises, by its file."""
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                yield str(file.relative_to(SOURCE)), " ".join(map(written, node.exc.args))


def written(node):
    """An expression's text, X for what is put in; of anything but a text, the texts within."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join("X" if isinstance(part, ast.FormattedValue) else written(part) for part in node.values)
    return " ".join(map(written, ast.iter_child_nodes(node)))


def test_every_argument_that_a_message_names_is_an_option_or_known_to_be_of_python_alone():
    """In one form, `name=value`, so that the command can say it in its own words."""
    messages = list(raised())
    assert len(messages) > 300
    left = {
        (file, name)
        for file, message in messages
        for name in re.findall(r"\b([a-z_]+)=", in_options(message))
        if name not in PYTHON_ONLY
    }
    assert left == set()
    named = {name for _, message in messages for name in re.findall(r"\b([a-z_]+)=", message)}
    assert named & set(options()) >= {"layer", "variant", "tokenizer", "trust_remote_code", "generate"}


def test_no_message_of_the_command_names_a_function():
    public = (mambascope, mambascope.methods, mambascope.readouts)
    functions = {name for room in public for name in dir(room) if inspect.isfunction(getattr(room, name))}
    named = {
        (file, name)
        for file, message in raised()
        if file not in CALLERS_ONLY and "in Python" not in message
        for name in functions & set(re.findall(r"\w+", message))
        if "_" in name or re.search(rf"\b{name}\(", message)
    }
    assert named == set()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def without_tokenizer(folder):
    for file in folder.glob("*token*"):
        file.unlink()


def with_code_of_its_own(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "auto_map": {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("arguments", "says", "change"),
    [
        (["--method", "mamba-lrp", "--layer", "1"], "not single layers; leave --layer all\n", None),
        (
            ["--generate", "0"],
            "--generate 0 asks for no token; ask for 1 or more\n",
            None,
        ),
        (
            ["--method", "latim", "--variant", "reference-code"],
            "has one variant; --variant reference-code is for ",
            None,
        ),
        (["--method", "mamba-lrp", "--target", "store"], "log-probability of the whole with --continuation …\n", None),
        ([], "this model has no tokenizer; load it with --tokenizer …, a folder or a hub id", without_tokenizer),
        ([], "read that code, then pass --trust-remote-code\n", with_code_of_its_own),
    ],
)
def test_the_command_names_its_options(arguments, says, change, checkpoint, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    if change is not None:
        change(folder)
    monkeypatch.setattr(sys, "argv", ["mambascope", "explain", TEXT, "--model", str(folder), *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert says in told
    assert not re.search(r"\b[a-z_]+=", told)
