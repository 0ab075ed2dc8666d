"""The command end to end: what it prints and writes, and every refusal as one sentence with exit code 2."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mambascope
from mambascope import growing_files, memory
from mambascope.cli import mapping
from mambascope.explanation import writing
from mambascope.trace import footprint
from models import stock_transformer
from small_checkpoint import make_checkpoint

TEXT = "When Mary and John went to the store"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def test_json_is_one_object_with_the_scores_of_the_library(run, checkpoint):
    code, out, err = run("explain", TEXT, "--model", checkpoint, "--json")
    assert (code, err) == (0, "")
    printed = json.loads(out)
    result = mambascope.explain(*mambascope.load(checkpoint), TEXT)
    assert printed["tokens"] == list(result.tokens)
    assert printed["method"] == "mamba-lrp"
    assert printed["position"] == len(result.tokens) - 1
    assert printed["scores"] == pytest.approx(result.row().tolist(), rel=1e-4)
    assert [layer["layer"] for layer in printed["layers"]] == ["all"]
    assert 0 < printed["diagnostics"]["reconstruction_error"] < 1e-5


@pytest.mark.parametrize("end", [".html", ".json", ".png", ".safetensors"])
def test_what_is_written_is_what_is_printed(run, checkpoint, tmp_path, end):
    """One default, whatever file is asked for: what the prediction was drawn from."""
    code, printed, _ = run("explain", TEXT, "--model", checkpoint, "--json")
    path = tmp_path / f"out{end}"
    code, out, _ = run("explain", TEXT, "--model", checkpoint, "--out", path)
    assert code == 0
    assert out.startswith("mamba-lrp")
    scores = json.loads(printed)["scores"]
    if end == ".json":
        assert json.loads(path.read_text())["scores"] == pytest.approx(scores, rel=1e-4)
    if end == ".safetensors":
        assert mambascope.Attribution.load(path).row().tolist() == pytest.approx(scores, rel=1e-4)
    code, out, _ = run("explain", TEXT, "--model", checkpoint, "--layer", "0")
    assert out.startswith("latim")


def test_a_page_opens_with_the_prediction_and_offers_every_position(run, checkpoint, tmp_path):
    path = tmp_path / "x.html"
    assert run("explain", TEXT, "--model", checkpoint, "--out", path)[0] == 0
    first, second, *others = json.loads(re.search(r'id="result">(.*?)</script>', path.read_text())[1])["methods"]
    assert (first["name"], first["targets"]) == ("mamba-lrp", [second["targets"][-1]])
    assert (second["name"], len(second["targets"])) == ("latim", second["targets"][-1] + 1)
    assert all(len(one["targets"]) == 1 for one in others)
    assert not {"random", "latim-silu"} & {one["name"] for one in others}, "variants and controls are not offered"
    assert first["diagnostics"]["seconds_in_all"] > first["diagnostics"]["seconds"]


@pytest.mark.parametrize("method", [name for name, m in mambascope.methods.METHODS.items() if m.reads({"scan"})])
def test_the_screen_is_plain_in_a_pipe_and_says_the_evidence(run, checkpoint, method):
    layer = ["--layer", "0"] if mambascope.methods.METHODS[method].scope == "layer" else []
    code, out, _ = run("explain", TEXT, "--model", checkpoint, "--method", method, *layer, "--position", "-3")
    assert code == 0
    assert "\x1b" not in out
    assert method in out
    assert "rebuilt" in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_reader_that_stops_reading_loses_no_file(checkpoint, tmp_path):
    """`mambascope explain … --out FILE | head`: what it prints goes nowhere, what it writes is there."""
    path, (read, write) = tmp_path / "x.html", os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "mambascope", "explain", TEXT, "--model", checkpoint, "--out", path]
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(write)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_file_that_cannot_be_written_does_not_keep_the_result_from_the_screen(run, checkpoint, tmp_path, monkeypatch):
    def full(path, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    code, out, err = run("explain", TEXT, "--model", checkpoint, "--out", tmp_path / "x.json")
    assert code == 2
    assert "rebuilt" in out
    assert "No space left on device" in err
    assert "written" not in out


@pytest.mark.parametrize("suffix", ["html", "png", "pdf", "svg", "json", "csv", "npz", "safetensors"])
def test_every_format_is_written_whole(run, checkpoint, tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    code, out, err = run("explain", TEXT, "--model", checkpoint, "--out", path)
    assert code == 0, err
    assert str(path) in out.replace("\n", "")
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "no partial file is left"
    content = path.read_bytes()
    starts = {"html": b"<!", "png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml", "json": b"{", "csv": b"method,layer,"}
    starts |= {"npz": b"PK"}
    assert content.startswith(starts.get(suffix, b""))
    if suffix == "safetensors":
        assert mambascope.Attribution.load(path).method == "mamba-lrp"


def test_a_graph_is_of_the_method_that_has_parts_per_layer(run, checkpoint, tmp_path):
    path = tmp_path / "answer.graph.json"
    code, out, err = run("explain", TEXT, "--model", checkpoint, "--out", path)
    assert code == 0, err
    assert "alti-logit" in out
    graph = json.loads(path.read_text())
    assert graph["metadata"]["prompt"] == TEXT
    assert graph["metadata"]["generation_settings"]["method"] == "alti-logit"
    assert {link["target"] for link in graph["links"]} <= {node["node_id"] for node in graph["nodes"]}


@pytest.mark.parametrize("method", ["latim", "rollout", "mamba-lrp", "alti-logit", "value-zeroing"])
def test_a_page_opens_with_any_kind_of_method(run, checkpoint, tmp_path, method):
    """Per layer, whole model with and without all targets, split by layer."""
    path = tmp_path / "x.html"
    code, _, err = run("explain", TEXT, "--model", checkpoint, "--method", method, "--out", path)
    assert code == 0, err
    assert f'"name":"{method}"' in path.read_text(encoding="utf-8")


def test_a_target_and_a_foil_are_asked_by_the_command(run, checkpoint):
    code, out, _ = run("explain", TEXT, "--model", checkpoint, "--method", "alti-logit", "--target", "e", "--foil", "t")
    assert code == 0
    assert "logit of 'e' minus that of 't'" in out
    assert "of the number explained, which they add up to within" in " ".join(out.split())
    code, out, _ = run(
        "explain", TEXT, "--model", checkpoint, "--method", "rollout", "--variant", "reference-code", "--json"
    )
    assert (code, json.loads(out)["diagnostics"]["variant"]) == (0, "reference-code")
    code, out, _ = run(
        "explain", TEXT, "--model", checkpoint, "--method", "mamba-lrp", "--continuation", " to", "--json"
    )
    assert (code, json.loads(out)["target"]["asked"]) == (0, "log-probability of ' to'")
    for options, words in (
        (("--target", "store"), "tokens"),
        (("--method", "latim", "--target", "e"), "whatever is predicted there"),
        (("--target", "e", "--foil", "e"), "the foil is the target itself"),
        (("--method", "mamba-lrp", "--layer", "1"), "explains the whole model"),
        (("--method", "norm-based"), "reads softmax attention"),
        (("--method", "latim", "--variant", "reference-code"), "has one variant"),
    ):
        code, out, err = run("explain", TEXT, "--model", checkpoint, *options)
        assert code == 2
        assert words in err
        assert len(err.strip().splitlines()) == 1


def test_text_comes_from_standard_input(run, checkpoint, monkeypatch):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO(TEXT))
    _, out, _ = run("explain", "-", "--model", checkpoint, "--json")
    assert "".join(json.loads(out)["tokens"]) == TEXT


def test_info_prints_sizes_and_the_self_check(run, checkpoint):
    code, out, _ = run("info", checkpoint, "--json")
    facts = json.loads(out)
    assert code == 0
    assert (facts["family"], facts["layers"], facts["inner_width_D"], facts["state_size_N"]) == ("mamba", 2, 24, 3)
    assert 0 < facts["probe_reconstruction_error"] < 1e-5
    assert 0 < facts["probe_scan_error"] < 1e-5
    assert 0 <= facts["residual_secant"] < 1e-5
    assert facts["residual_silu"] > 0.05
    assert facts["residual_identity"] > 0.05
    assert "inner width D" in run("info", checkpoint)[1]


def test_lists_name_every_method_and_model(run):
    out = run("methods")[1]
    assert all(name in out for name in mambascope.methods.METHODS)
    out = run("models")[1]
    assert all(name in out for name in mambascope.bundled_models())
    assert "constructed:recall-mamba" in out


@pytest.mark.parametrize(("channels", "count"), [("all", 24), ("mean", None), ("3,1", 2)])
def test_maps_are_written_per_channel(run, checkpoint, tmp_path, channels, count):
    path = tmp_path / "m.safetensors"
    code, _, err = run(
        "maps", TEXT, "--model", checkpoint, "--layer", "1", "--channels", channels, "--out", path,
    )  # fmt: skip
    assert code == 0, err
    maps = load_file(path)["maps"]
    length = len(mambascope.explain(*mambascope.load(checkpoint), TEXT).tokens)
    assert tuple(maps.shape) == ((count,) if count else ()) + (length, length)


@pytest.mark.parametrize("command", ["maps", "explain"])
def test_maps_that_were_interrupted_are_continued_by_the_same_command(run, checkpoint, tmp_path, monkeypatch, command):
    path = tmp_path / "m.safetensors"
    options = ("--channels", "3,1") if command == "maps" else ("--method", "latim", "--positions", "all")
    words = (command, TEXT, "--model", checkpoint, "--layer", "1", *options, "--out", path)
    monkeypatch.setattr(mapping, "BAND", 0)
    monkeypatch.setattr(mapping, "LEAST_ROWS", 2)
    monkeypatch.setattr(writing, "BAND", 0)
    monkeypatch.setattr(writing, "LEAST_ROWS", 2)
    write, written = growing_files._Growing.write, []

    def interrupted(self, band, values):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(band)
        write(self, band, values)

    monkeypatch.setattr(growing_files._Growing, "write", interrupted)
    code, _, err = run(*words)
    assert (code, err) == (130, f"mambascope: interrupted; the same command goes on with {path}\n")
    assert [one.name for one in tmp_path.iterdir()] == ["m.partial.safetensors"]
    monkeypatch.setattr(growing_files._Growing, "write", lambda *given: (written.append(given[1]), write(*given)))
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    assert f"written   {path}" in out.replace("\n", "")
    assert len(written) == len(set(map(str, written))), "no band twice"
    model, tokenizer = mambascope.load(checkpoint)
    if command == "maps":
        trace = mambascope.capture(model, input_ids=torch.tensor([tokenizer(TEXT)["input_ids"]]))
        expected, found = mambascope.methods.hidden_attention(trace, 1, [3, 1])[0], load_file(path)["maps"]
    else:
        expected = mambascope.explain(model, tokenizer, TEXT, method="latim", layer=1, positions="all").scores
        found = mambascope.Attribution.load(path).scores
        assert mambascope.Attribution.load(path).diagnostics["command"].startswith("mambascope explain")
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--position", "3"), "position and positions both say which position is explained"),
        (("--continuation", " a"), "leave out target and position"),
        (("--patch", "0,1"), "--patch is for pictures"),
    ],
)
def test_contradictions_are_refused_whatever_is_written(run, checkpoint, tmp_path, more, words):
    path = tmp_path / "m.safetensors"
    code, _, err = run(
        "explain", TEXT, "--model", checkpoint, "--method", "latim", "--positions", "all", *more, "--out", path
    )
    assert code == 2
    assert words in err
    assert not list(tmp_path.iterdir())


def damaged(checkpoint, folder, change):
    """Copy a checkpoint and change its tensors."""
    import shutil

    shutil.copytree(checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_bad_input_gets_one_sentence_and_exit_code_2(run, checkpoint, tmp_path, monkeypatch):
    name = "backbone.layers.1.mixer.x_proj.weight"
    missing = damaged(checkpoint, tmp_path / "missing", lambda tensors: tensors.pop(name))
    nan = damaged(checkpoint, tmp_path / "nan", lambda tensors: tensors[name].fill_(torch.nan))
    small = make_checkpoint(tmp_path / "small", vocab_size=260)
    (tmp_path / "empty").mkdir()
    gpt = tmp_path / "gpt2"
    gpt.mkdir()
    (gpt / "config.json").write_text(json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))
    use, graph = ("--model", checkpoint), tmp_path / "x.graph.json"
    cases = {
        ("explain", "", *use): "empty",
        ("explain", TEXT, "--model", "no-such-model"): "no-such-model",
        ("explain", TEXT, "--model", tmp_path / "empty"): "config.json",
        ("explain", TEXT, "--model", missing): name,
        ("explain", TEXT, "--model", nan): name,
        ("explain", TEXT, "--model", small): "outside the model's vocabulary",
        ("explain", TEXT, "--model", gpt): "gpt2",
        ("explain", TEXT, *use, "--layer", "99"): "layer 99 does not exist",
        ("explain", TEXT, *use, "--layer", "top"): "--layer 'top' is neither a number, a range",
        ("explain", TEXT, *use, "--layer", "9:12"): "no layers in 9:12; this model has layers 0–1",
        ("explain", TEXT, *use, "--layer", "1,1"): "--layer 1 is named twice",
        ("explain", TEXT, *use, "--position", "99"): "position 99 does not exist",
        ("explain", TEXT, *use, "--method", "magic"): "unknown method",
        ("explain", TEXT, *use, "--out", tmp_path / "no" / "x.html"): "does not exist",
        ("explain", TEXT, *use, "--out", tmp_path / "x.gif"): "x.gif has an unknown ending; choose one of .html, .png",
        ("explain", TEXT, *use, "--out", tmp_path / "x"): "x has no ending; choose one of .html, .png",
        ("explain", TEXT, "--model", "no", "--method", "mamba-lrp", "--out", graph): "mamba-lrp has no parts per layer",
        ("explain", TEXT, *use, "--layer", "1", "--out", graph): "alti-logit explains the whole model",
        ("explain", TEXT, *use, "--device", "cuda:9"): "cuda",
        ("maps", TEXT, *use, "--layer", "99", "--out", tmp_path / "m.safetensors"): "layer 99 does not exist",
        ("maps", TEXT, *use, "--layer", "0", "--channels", "x", "--out", tmp_path / "m.safetensors"): "--channels 'x'",
        ("maps", TEXT, *use, "--layer", "0", "--channels", "77", "--out", tmp_path / "m.safetensors"): "77",
    }
    for arguments, words in cases.items():
        code, out, err = run(*arguments)
        assert code == 2, arguments
        assert words in err, arguments
        assert err.startswith("mambascope: ")
        assert err.count("\n") == 1, err
        assert "Traceback" not in err
        assert not out
    monkeypatch.setattr(footprint, "bytes_of_pass", lambda *_, **__: 0)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1000)
    code, _, err = run("maps", TEXT, *use, "--layer", "0", "--out", tmp_path / "m.safetensors")
    assert code == 2
    assert "MiB are free; ask for --channels mean or for a few channels" in err


@pytest.mark.parametrize("verb", ["explain", "maps"])
def test_a_text_that_the_tokenizer_cannot_read_is_one_sentence(run, tmp_path, monkeypatch, verb):
    import io

    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({letter: k for k, letter in enumerate("abcdefgh")}))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    folder = make_checkpoint(tmp_path / "letters")
    PreTrainedTokenizerFast(tokenizer_object=inner).save_pretrained(folder)
    monkeypatch.setattr(sys, "stdin", io.StringIO(TEXT))
    more = () if verb == "explain" else ("--layer", "0", "--out", tmp_path / "m.safetensors")
    code, out, err = run(verb, "-", "--model", folder, *more)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "this model's tokenizer cannot read 'When Mary and John went to the store' (it has no token 'W')" in err
    assert "it knows 8 tokens, such as 'a', 'b'" in err
    code, _, err = run(verb, "bad", "--model", folder, *more)
    assert code == 0, err
    code, _, err = run("info", folder)
    assert code == 0, err
    if verb == "explain":
        for option in ("--target", "--foil", "--continuation"):
            code, _, err = run(verb, "bad", "--model", folder, option, "xyz")
            assert (code, err.count("\n"), "tokenizer cannot read 'xyz'" in err) == (2, 1, True), err


def test_a_text_longer_than_the_models_positions_is_one_sentence(run, tmp_path):
    folder = make_checkpoint(tmp_path / "gpt2")
    stock_transformer("gpt2", vocab_size=300, n_positions=6).save_pretrained(folder)
    use = ("--model", folder)
    assert run("explain", "a cat", *use)[0] == 0
    for options in ((TEXT,), ("a cat", "--continuation", TEXT), (TEXT, "--method", "latim")):
        code, out, err = run("explain", *options, *use)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "GPT2LMHeadModel has positions for 6; shorten the text" in err
    code, _, err = run("maps", TEXT, *use, "--layer", "0", "--out", tmp_path / "m.safetensors")
    assert (code, "has positions for 6" in err) == (2, True)
    code, out, err = run("info", folder, "--json")
    assert (code, json.loads(out)["probe_tokens"]) == (0, 6), "the probe is ours, and is cut to fit"


def test_several_layers_are_asked_by_the_command(run, checkpoint):
    for layers, numbers in (("0,1", [0, 1]), ("1,0", [1, 0]), (":", [0, 1]), ("::-1", [1, 0]), ("-1", [1])):
        code, out, err = run("explain", TEXT, "--model", checkpoint, "--layer", layers, "--json")
        assert code == 0, err
        assert [layer["layer"] for layer in json.loads(out)["layers"]] == numbers


def test_the_bundled_model_is_the_default(run):
    code, out, err = run("explain", TEXT, "--json")
    assert code == 0, err
    assert json.loads(out)["model"]["name"] == "tiny-mamba"


@pytest.mark.parametrize("suffix", ["html", "png", "json", "csv", "npz", "safetensors"])
def test_a_disk_that_refuses_loses_nothing(run, checkpoint, tmp_path, suffix, monkeypatch):
    """The result is shown all the same, the old file stays, no part of the new one does, and one sentence says why."""
    path = tmp_path / f"x.{suffix}"
    path.write_text("what stood here before")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "replace", full)
    code, out, err = run("explain", TEXT, "--model", checkpoint, "--out", path, "--json")
    assert code == 2
    assert json.loads(out)["tokens"]
    assert err.startswith("mambascope: ")
    assert "could not be written" in err
    assert err.count("\n") == 1
    assert path.read_text() == "what stood here before"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_too_little_memory_is_one_sentence(run, checkpoint, monkeypatch):
    from mambascope.cli import explaining

    def fail(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(explaining, "explain_source", fail)
    code, _, err = run("explain", TEXT, "--model", checkpoint)
    assert code == 2
    assert err == "mambascope: there is not enough memory for this text and model; shorten the text\n"


@pytest.mark.parametrize("verb", ["explain", "maps"])
def test_input_that_is_no_text_is_refused_in_one_sentence(run, monkeypatch, tmp_path, verb):
    import io

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\x00\xfe"), encoding="utf-8"))
    more = () if verb == "explain" else ("--layer", "0", "--out", tmp_path / "m.safetensors")
    code, out, err = run(verb, "-", *more)
    assert (code, out) == (2, "")
    assert err.strip().endswith("standard input is not text in utf-8: invalid start byte")
    assert err.count("\n") == 1


def test_words_and_spans(run, tmp_path):
    out = run("explain", "Mr. Bolton was rich", "--words", "--out", str(tmp_path / "page.html"), "--json")[1]
    assert json.loads(out)["tokens"] == ["Mr", ".", " Bolton", " was", " rich"]
    assert "taken together as words" in (tmp_path / "page.html").read_text()
    out = run("explain", "Mr. Bolton was rich", "--span", "who=0:2", "--json")[1]
    assert json.loads(out)["tokens"][0] == "who"


def test_knockout_removes_a_span_as_a_whole(run, tmp_path):
    page, asked = str(tmp_path / "page.html"), ("explain", "Mr. Bolton was rich", "--method", "knockout")
    out = run(*asked, "--span", "who=0:2", "--span", "was=4:6", "--out", page, "--json")[1]
    found = json.loads(out)
    assert found["tokens"][:3] == ["who", "2:4", "was"]
    assert "taken together as spans (each removed as a whole)" in Path(page).read_text()
    single = json.loads(run(*asked, "--json")[1])["scores"]
    assert found["scores"][0] != pytest.approx(sum(single[0:2]), rel=1e-3), "which is not the sum of single drops"
    code, _, error = run(*asked, "--span", "who=0:2", "--verify", "3")
    assert code == 2
    assert "--verify removes single tokens; leave out --words and --span" in " ".join(error.split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--span", "who=2"], "--span 'who=2' is not a name and its tokens, such as question=12:40, nor one of words"),
        (["--span", "=1:2"], "--span '=1:2' is not a name and its tokens"),
        (["--span", "a=0:1", "--span", "a=1:2"], "--span names 'a' twice"),
        (["--words", "--span", "a=0:1"], "--words and --span both say which tokens are taken together"),
        (["--span", "a=5:90"], "the span 'a', 5:90, holds no tokens of a text of"),
    ],
)
def test_spans_that_cannot_be_read(options, said, run):
    code, _, error = run("explain", "Mr. Bolton was rich", *options)
    assert code == 2
    assert said in " ".join(error.split())
