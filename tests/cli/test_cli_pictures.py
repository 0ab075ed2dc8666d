"""`explain` on pictures, end to end: known by the file, every format, refusals in one sentence with exit code 2."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import mambascope
from browser import open_file
from mambascope.explanation import explain
from mambascope.models.vim import VisionMamba, VisionMambaConfig
from page_contents import data_of
from picture_checkpoints import PROCESSOR, astronaut, cat, saved, vim, vit


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"vit": saved(vit(), folder / "vit"), "vim": saved(vim(), folder / "vim", processor=None)}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    Image.fromarray(astronaut()).save(folder / "astronaut.png")
    Image.fromarray(cat()).save(folder / "cat.jpg")
    return folder


@pytest.mark.parametrize("name", ["vit", "vim"])
def test_json_is_what_the_library_says(run, models, photographs, name):
    code, out, err = run("explain", photographs / "cat.jpg", "--model", models[name], "--target", "rocket", "--json")
    assert (code, err) == (0, "")
    printed = json.loads(out)
    model, _ = mambascope.load(models[name])
    result = explain(model, None, photographs / "cat.jpg", target="rocket")
    assert printed["method"] == result.method == {"vit": "alti-logit", "vim": "mamba-lrp"}[name]
    assert printed["scores"] == pytest.approx(result.row().tolist(), rel=1e-4, abs=1e-6)
    for row, expected in zip(printed["picture"], result.picture().tolist(), strict=True):
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert printed["target"]["asked"] == "logit of class 'rocket'"
    assert printed["diagnostics"]["picture"] == "cat.jpg"
    assert "resized" in printed["diagnostics"]["preparation"]


@pytest.mark.parametrize("suffix", ["html", "png", "pdf", "svg", "json", "csv", "npz", "safetensors"])
def test_every_format_is_written_whole(run, models, photographs, tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    code, out, err = run("explain", photographs / "astronaut.png", "--model", models["vim"], "--out", path)
    assert code == 0, err
    assert str(path) in out.replace("\n", "")
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "no partial file is left"
    starts = {"html": b"<!", "png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml", "json": b"{", "csv": b"method,layer,"}
    starts |= {"npz": b"PK"}
    assert path.read_bytes().startswith(starts.get(suffix, b""))
    if suffix == "safetensors":
        loaded = mambascope.Attribution.load(path)
        assert torch.equal(loaded.image, torch.from_numpy(astronaut()))


def test_the_screen_is_plain_in_a_pipe(run, models, photographs):
    code, out, _ = run("explain", photographs / "cat.jpg", "--model", models["vim"], "--patch", "2,1")
    assert code == 0
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80
    for words in ("latim", "explains patch 2,1", "[] what is explained", "rebuilt", "the middle 67 % of it"):
        assert words in " ".join(out.split())


def test_a_picture_is_known_by_its_content_and_a_text_stays_a_text(run, models, photographs, tmp_path, monkeypatch):
    plain = tmp_path / "picture"
    plain.write_bytes((photographs / "cat.jpg").read_bytes())
    assert run("explain", plain, "--model", models["vit"])[0] == 0
    for text in ("and/or", "e.g.", "I saw cat.jpg"):
        code, out, _ = run("explain", text, "--json")
        assert (code, "".join(json.loads(out)["tokens"])) == (0, text)
    (tmp_path / "notes.txt").write_text("some words")
    monkeypatch.chdir(tmp_path)
    for text in ("notes.txt", "cat.jpg", "picture"):
        code, out, _ = run("explain", text, "--text", "--json")
        assert (code, "".join(json.loads(out)["tokens"])) == (0, text), "a text, as the option says"


def test_bad_input_gets_one_sentence_and_exit_code_2(run, models, photographs, tmp_path):
    (tmp_path / "words.png").write_text("these are words")
    half = (photographs / "cat.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(half[: len(half) // 2])
    wide = saved(vit(hidden_size=24), tmp_path / "wide")
    config = json.loads((models["vit"] / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps(config))
    odd = saved(vit(), tmp_path / "odd", PROCESSOR | {"image_mean": [0.5]})
    picture, use = photographs / "cat.jpg", ("--model", models["vit"])
    cases = {
        (tmp_path / "words.png", *use): "words.png could not be read as an image",
        (tmp_path / "half.jpg", *use): "half.jpg could not be read as an image",
        (tmp_path / "absent.png", *use): "looks like the path of a picture but does not exist; check it, or add --text",
        (tmp_path, *use): "looks like the path of a picture but is a folder",
        (
            models["vit"] / "config.json",
            *use,
        ): "is a file but not a picture; for the text in it run mambascope explain -",
        (picture, *use, "--text"): "reads pictures, not the text",
        (picture, *use, "--text", "--image"): "--image and --text contradict each other",
        (picture, *use, "--text", "--patch", "1,1"): "--patch is for pictures, but --text says that this is a text",
        (tmp_path / "absent.png", *use, "--image"): "there is no picture",
        (picture,): "MambaForCausalLM reads text, not pictures",
        (picture, "--model", wide): "do not fit",
        (picture, "--model", odd): "preprocessor_config.json cannot be used",
        (picture, *use, "--target", "dog"): "the target 'dog' is not a class of this model; its classes are tabby cat",
        (picture, *use, "--target", "rocket", "--foil", "rocket"): "the foil is the target itself",
        (picture, *use, "--patch", "4,0"): "no patch in row 4 and column 0: the picture has 4 rows and 4 columns",
        (picture, *use, "--patch", "4"): "--patch '4' is not a row and a column",
        (picture, *use, "--patch", "1,1", "--method", "alti-logit"): "explains a class, not a single patch",
        (picture, *use, "--position", "3"): "--position is for texts",
        (picture, *use, "--continuation", "x"): "--continuation is for texts",
        (
            picture,
            *use,
            "--method",
            "mamba-attribution",
        ): "reads softmax attention only beside others",
        (picture, *use, "--layer", "9", "--method", "latim"): "layer 9 does not exist",
        (picture, *use, "--out", tmp_path / "x.gif"): "choose one of",
        ("some words", *use, "--patch", "1,1"): "--patch is for pictures, but there is no picture 'some words'",
        ("some words", "--keep-size"): "--keep-size is for pictures",
        ("some words", *use): "reads pictures, not the text 'some words'",
    }
    for arguments, words in cases.items():
        code, out, err = run("explain", *arguments)
        assert code == 2, (arguments, err)
        assert words in err, arguments
        assert err.startswith("mambascope: ")
        assert err.count("\n") == 1, err
        assert not out


def test_classes_that_may_be_there_together_have_each_their_own_probability(run, photographs, tmp_path):
    model = vim(problem_type="multi_label_classification")
    saved(model, tmp_path / "several")
    _, out, _ = run("explain", photographs / "cat.jpg", "--model", tmp_path / "several", "--json")
    pixels = mambascope.read_picture(photographs / "cat.jpg", model).pixel_values
    with torch.no_grad():
        expected = model(pixels).logits[0].sigmoid().sort(descending=True).values.tolist()
    target = json.loads(out)["target"]
    assert [share for _, share in target["next_tokens"]] == pytest.approx(expected, rel=1e-4)
    assert target["independent"] is True
    _, out, _ = run("explain", photographs / "cat.jpg", "--model", tmp_path / "several")
    assert "cat.jpg → predicts, each class by itself: " in out
    _, out, _ = run("compare", photographs / "cat.jpg", "--models", tmp_path / "several", "--methods", "latim")
    assert "  predicts, each class by itself: " in out
    saved(vim(), tmp_path / "one")
    _, out, _ = run("explain", photographs / "cat.jpg", "--model", tmp_path / "one", "--json")
    assert json.loads(out)["target"]["independent"] is False


@pytest.mark.parametrize(("name", "maps"), [("vit", 3), ("vim", 12)])
def test_info_and_maps_know_pictures(run, models, photographs, tmp_path, name, maps):
    code, out, err = run("info", models[name], "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert (facts["picture"], facts["patches"], facts["classes"], facts["probe_tokens"]) == ("32 x 32", "4 x 4", 5, 17)
    assert facts["probe_reconstruction_error"] < 1e-5
    file = tmp_path / "m.safetensors"
    code, out, err = run("maps", photographs / "cat.jpg", "--model", models[name], "--layer", "1", "--out", file)
    assert code == 0, err
    assert "picture   " in out
    assert "resized from 451 x 300 to 32 x 32 pixels" in out
    assert load_file(file)["maps"].shape == (maps, 17, 17)
    for argument, words in (
        ("absent.png", "looks like the path of a picture but does not exist"),
        (models[name] / "config.json", "for the text in it run mambascope maps - <"),
        (photographs / "cat.jpg", "MambaForCausalLM reads text, not pictures"),
    ):
        code, _, err = run("maps", argument, "--layer", "1", "--out", file)
        assert (code, words in err) == (2, True), err
    code, _, err = run("maps", "absent.png", "--text", "--layer", "1", "--out", file)
    assert code == 0, err
    code, _, err = run("maps", "some words", "--model", models[name], "--layer", "1", "--out", file)
    assert (code, "reads pictures, not the text 'some words'" in err) == (2, True)


@pytest.mark.browser
@pytest.mark.parametrize("name", ["vit", "vim"])
def test_page_and_json_agree(run, models, photographs, tmp_path, name):
    page, asked = tmp_path / "page.html", ("--model", models[name], "--target", "rocket")
    result = json.loads(run("explain", photographs / "cat.jpg", *asked, "--json")[1])
    code, _, err = run("explain", photographs / "cat.jpg", *asked, "--out", page)
    assert code == 0, err
    dom, messages = open_file(page)
    assert not messages
    best = sorted(range(17), key=lambda j: -abs(result["scores"][j]))[:8]
    assert [int(row["data-position"]) for row in dom.rows()] == best
    for row, source in zip(dom.rows(), best, strict=True):
        assert float(row["data-score"]) == pytest.approx(result["scores"][source], rel=1e-4)
    targets = {one["name"]: len(one["targets"]) for one in data_of(page.read_text(encoding="utf-8"))["methods"]}
    assert next(iter(targets)) == {"vit": "alti-logit", "vim": "mamba-lrp"}[name]
    assert targets.pop("latim") == 17, "any patch can be explained at a click"
    assert set(targets.values()) == {1}, "which others there are depends on the machine's speed"


@pytest.mark.parametrize("suffix", ["html", "png", "pdf", "svg", "json"])
def test_models_are_compared_in_every_format(run, models, photographs, tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    both = f"{models['vim']},{models['vit']}"
    code, out, err = run("compare", photographs / "cat.jpg", "--models", both, "--out", path)
    assert code == 0, err
    starts = {"html": b"<!", "png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml", "json": b"["}
    assert path.read_bytes().startswith(starts[suffix])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert "  picture                 resized from 451 x 300 to 32 x 32 pixels" in out
    assert suffix != "html" or "resized from 451 x 300 to 32 x 32 pixels" in path.read_text(encoding="utf-8")
    for method in (
        "raw-attention",
        "rollout",
        "mamba-attribution",
        "transformer-attribution",
        "mamba-lrp",
        "alti-logit",
    ):
        assert f"  {method} " in out
    assert max(map(len, out.splitlines()[:-1])) <= 80


def test_a_comparison_says_what_explain_says(run, models, photographs):
    both = f"{models['vim']},{models['vit']}"
    asked = ("--methods", "latim,mamba-lrp,mamba-attribution", "--json")
    code, out, err = run("compare", photographs / "cat.jpg", "--models", both, *asked)
    assert (code, err) == (0, "")
    vim_row, vit_row = json.loads(out)["models"]
    for method, found in zip(("latim", "mamba-lrp"), vim_row["results"][:2], strict=True):
        one = run("explain", photographs / "cat.jpg", "--model", models["vim"], "--method", method, "--json")[1]
        assert found["scores"] == pytest.approx(json.loads(one)["scores"], rel=1e-4, abs=1e-6)
    assert vit_row["results"][2] is None
    assert vit_row["reasons"] == ["", "", "mamba-attribution does not read attention layers"]


def test_a_patch_is_compared_where_methods_can(run, models, photographs):
    both = f"{models['vim']},{models['vit']}"
    code, out, err = run("compare", photographs / "cat.jpg", "--models", both, "--patch", "2,1", "--json")
    assert code == 0, err
    vim_row, vit_row = json.loads(out)["models"]
    assert vim_row["results"][3]["target"]["asked"].startswith("size of the features")
    assert vit_row["results"][3] is None
    assert "explains a class, not a single patch" in vit_row["reasons"][3]
    code, out, err = run("compare", photographs / "cat.jpg", "--models", both, "--patch", "2,1", "--target", "rocket")
    assert code == 0, err


def test_comparisons_that_cannot_be_made_are_refused(run, models, photographs, tmp_path):
    picture, use = photographs / "cat.jpg", ("--models", models["vit"])
    cases = {
        (picture, "--models", ","): "--models is empty",
        (picture, *use, "--methods", "magic"): "unknown method 'magic'",
        (
            picture,
            *use,
            "--methods",
            "mamba-attribution",
        ): "none of the methods mamba-attribution can read one of the models",
        (picture, *use, "--methods", "latim", "--target", "rocket"): "whatever is predicted there",
        (picture, *use, "--target", "dog"): "'dog' is not a class",
        (picture, *use, "--out", tmp_path / "x.safetensors"): "choose one of",
        (tmp_path / "absent.png", *use): "looks like the path of a picture but does not exist",
        (tmp_path / "absent.png", *use, "--image"): "there is no picture",
        (picture, "--models", "tiny-mamba"): "reads text, not pictures",
    }
    for arguments, words in cases.items():
        code, out, err = run("compare", *arguments)
        assert code == 2, (arguments, err)
        assert words in err, arguments
        assert err.count("\n") == 1, err
        assert not out


@pytest.fixture
def released(tmp_path):
    """A Vim for 32 pixels in a file that does not say so."""
    path = tmp_path / "vim.pth"
    torch.save({"model": vim().state_dict()}, path)
    return path


def test_a_released_file_whose_size_is_not_known_is_loaded_with_the_option_that_its_refusal_names(
    run, models, photographs, released
):
    picture = photographs / "cat.jpg"
    code, out, err = run("explain", picture, "--model", released)
    assert (code, out) == (2, "")
    assert "say which size with --image-size 32 if patches are side by side" in err
    for verb in (("explain", picture, "--model", released), ("info", released)):
        code, out, err = run(*verb, "--image-size", 32, "--json")
        assert code == 0, err
    code, out, err = run("compare", picture, "--models", f"{released},{models['vit']}", "--image-size", 32, "--json")
    assert code == 0, err
    assert len(json.loads(out)["models"]) == 2


def test_a_size_is_refused_where_the_model_says_its_own(run, models, photographs):
    picture = photographs / "cat.jpg"
    code, _, err = run("explain", picture, "--model", models["vim"], "--image-size", 32)
    assert code == 2
    assert "--image-size 32 is for files of Vim, VMamba or MambaVision" in err
    code, _, err = run("compare", picture, "--models", f"{models['vim']},{models['vit']}", "--image-size", 32)
    assert code == 2
    assert "none of these is one" in err


def test_an_assumed_size_is_told_with_the_option(run, tmp_path):
    config = VisionMambaConfig(image_size=224, patch_size=16, hidden_size=16, num_hidden_layers=1, num_labels=3)
    torch.save({"model": VisionMamba(config).state_dict()}, tmp_path / "vim.pth")
    code, _, err = run("info", tmp_path / "vim.pth")
    assert code == 0
    assert "pictures of 224 pixels, a stride of 16 (--image-size … says otherwise)" in err
