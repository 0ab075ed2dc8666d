"""`mambascope heads MODEL`."""

import json
import statistics

import pytest

from picture_checkpoints import vim
from small_checkpoint import make_checkpoint


def test_a_line_for_every_layer_within_80_columns(run):
    code, out, err = run("heads", "tiny-mamba2")
    assert (code, err) == (0, "")
    assert max(len(line) for line in out.splitlines()) <= 80
    lines = [line.split() for line in out.split("\n\n")[0].splitlines()]
    assert lines[0] == ["layer", "kind", "heads", "label", "with", "it", "share", "lift", "distance", "which"]
    layers = [line[:4] for line in lines[1:] if line[1] == "scan"]
    assert layers == [["0", "scan", "8", "local"], ["1", "scan", "8", "induction"]] + [
        [str(number), "scan", "8", "local"] for number in (2, 3, 4)
    ]


def test_local_and_diffuse_heads_have_lines_of_their_own(run):
    """Each head is on one line of its layer, and is what its numbers say."""
    _, out, _ = run("heads", "tiny-mamba2", "--layer", "3")
    _, printed, _ = run("heads", "tiny-mamba2", "--layer", "3", "--json")
    heads = json.loads(printed)["heads"]
    lines = [line.replace("3 scan     8", "").split() for line in out.split("\n\n")[0].splitlines()[1:]]
    assert [line[0] for line in lines] == ["local", "diffuse", "–"]
    for name, count, distance, *which in lines:
        own = [head for head in heads if (head["label"] or head["spread"] or "–") == name]
        assert (int(count), [int(number) for number in which]) == (len(own), [head["head"] for head in own])
        assert float(distance) == pytest.approx(statistics.median(head["distance"] for head in own), abs=0.05)


def test_the_scores_behind_every_label(run):
    code, out, _ = run("heads", "tiny-hybrid", "--layer", "-3", "--json", "--text", "A, b. C, d; e.\nF, g.")
    found = json.loads(out)
    assert code == 0
    assert found["text"] == "A, b. C, d; e.\nF, g."
    assert [head["head"] for head in found["heads"]] == [0, 1, 2, 3]
    for head in found["heads"]:
        assert head["layer"] == 2
        assert set(head["shares"]) == set(head["lifts"]) == {"previous", "first", "same", "induction", "separator"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--layer", "9"], "layer 9 does not exist: the model has 5 layers"),
        (["--text", "no marks at all here"], "the text has no marks of punctuation and no line's end to look at"),
        (["--text", ""], "the text is empty"),
    ],
)
def test_what_cannot_be_measured(run, words, said):
    code, _, err = run("heads", "tiny-mamba2", *words)
    assert code == 2
    assert said in " ".join(err.split())


def test_a_model_known_by_construction_whose_tokenizer_knows_no_marks(run):
    code, out, _ = run("heads", "constructed:induction-softmax")
    assert code == 0
    assert [line.split()[3] for line in out.split("\n\n")[0].splitlines()[1:]] == ["previous", "induction"]
    assert "separator on" not in out


def test_pictures_have_no_such_heads(run, tmp_path):
    vim().save_pretrained(tmp_path / "vim")
    code, _, err = run("heads", tmp_path / "vim")
    assert code == 2
    assert "this model reads pictures" in err


def test_a_checkpoint_without_a_tokenizer(run, tmp_path):
    folder = make_checkpoint(tmp_path / "model")
    for file in folder.glob("*token*"):
        file.unlink()
    code, out, err = run("heads", folder, "--json")
    assert (code, json.loads(out)["text"]) == (0, None), err
