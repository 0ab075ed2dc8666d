"""A damaged or foreign file is refused in one sentence; whatever loads can be used like any other result."""

import dataclasses
import json
import os

import pytest
import torch
from safetensors.torch import save_file

from damaged_results import joined, mutant, parts, seeded, use
from made_results import make
from mambascope import Attribution
from mambascope.attribution import Target
from mambascope.errors import CheckpointError, MambascopeError
from show_results import HOSTILE, picture_result, result

#: Mutated files for each good one; a quarter of them is still a result.
MUTANTS = 130


def several():
    """A result of generated tokens, with every kind of evidence."""
    targets = (Target(1, " b", ((" x", 0.5),), "logit of ' x'", 1.5, generated=2), Target(3, "\n", (), "x", -1.5))
    evidence = {
        "reconstruction_error": 1e-7,
        "reconstruction_error_per_layer": [1e-7, 1e-8],
        "conservation_error": 1e-6,
        "terms": {"tokens": 1.0, "biases": 0.5},
        "completeness_error": 0.01,
        "residual": 0.1,
        "pixel_share": 0.3,
        "seconds": 0.5,
        "seconds_in_all": 2.0,
        "caution": "no",
        "command": "mambascope \udcff",
        "layer_kinds": ["mamba", "attention"],
        "per_target": [{"conservation_error": 1e-6}, {}],
    }
    return dataclasses.replace(make(targets=(1, 3)), target=targets[1], targets=targets, diagnostics=evidence)


def pooled():
    """A picture whose class is read from the mean of all patches, with scores of pixels."""
    one = picture_result(stage=3, stages=4, preparation="cut")
    target = dataclasses.replace(one.target, pooled=len(one.tokens), independent=True)
    return dataclasses.replace(one, target=target, pixels=torch.rand(one.grid.size))


GOOD = {
    "text": make,
    "several": several,
    "picture": picture_result,
    "pooled": pooled,
    "hostile": lambda: result(HOSTILE),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_saved_loads_as_it_was(tmp_path, name):
    saved = GOOD[name]()
    loaded = Attribution.load(saved.save(tmp_path / "x.safetensors"))
    for field in dataclasses.fields(Attribution):
        kept, found = (getattr(one, field.name) for one in (saved, loaded))
        assert torch.equal(kept, found) if isinstance(kept, torch.Tensor) else kept == found, field.name
    assert list(loaded.diagnostics) == list(saved.diagnostics), "in the same order"


@pytest.mark.parametrize("name", GOOD)
def test_a_mutated_file_is_refused_or_can_be_used(tmp_path, name):
    content = GOOD[name]().save(tmp_path / "x.safetensors").read_bytes()
    path, loaded = tmp_path / "mutant.safetensors", 0
    for seed in range(MUTANTS):
        path.write_bytes(mutant(content, seeded(f"{name} {seed}")))
        try:
            one = Attribution.load(path)
        except CheckpointError:
            continue
        loaded += 1
        held = [one.scores, one.matrix(), *([] if one.pixels is None else [one.pixels])]
        finite = all(bool(numbers.isfinite().all()) for numbers in held)
        for deed, do in use(one, tmp_path, drawn=seed % 20 == 0):
            try:
                do()
            except MambascopeError:
                assert not finite, f"seed {seed}: {deed}"
            except Exception as error:
                raise AssertionError(f"seed {seed}: {deed} raised {error!r}") from error
    assert 10 < loaded < MUTANTS, "some of each kind"


def changed(path, **facts):
    header, rest = parts(make().save(path).read_bytes())
    stored = json.loads(header["__metadata__"]["attribution"])
    header["__metadata__"]["attribution"] = json.dumps(stored | facts)
    path.write_bytes(joined(header, rest))
    return path


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"tokens": ["a", " b", 3, "\n"]}, r"tokens\.2: .*found 3"),
        ({"tokens": ["a"]}, "1 tokens for 4 source positions"),
        ({"axes": {"layer": [1, 1], "target": [0, 1, 2, 3], "source": [0, 1, 2, 3]}}, "layer names something twice"),
        ({"axes": {"layer": [1, 4], "target": [0, 1, 2, 9], "source": [0, 1, 2, 3]}}, "position 9 is explained"),
        ({"axes": {"layer": [1], "target": [0, 1, 2, 3], "source": [0, 1, 2, 3]}}, "do not match axes of lengths"),
        ({"axes": {"layer": [1, 2**63], "target": [0], "source": [0, 1, 2, 3]}}, f"no model has a layer {2**63}"),
        ({"target": {"position": 7, "token": "x"}}, "a target lies outside the 4 tokens"),
        ({"target": {"position": 1, "token": "x", "value": float("nan")}}, "the value of a target is nan"),
        ({"model": None}, "model: .*found None"),
        ({"diagnostics": {"terms": [1, 2]}}, r"diagnostics\.terms: .*found \[1, 2\]"),
        ({"grid": {"rows": 9, "columns": 9, "class_position": None, "patch": 1, "stride": 1}}, "a grid of 81 tokens"),
        ({"grid": {"rows": 2, "columns": 2, "class_position": None, "patch": 10**9, "stride": 1}}, "more than a model"),
    ],
)
def test_the_first_entry_that_does_not_fit_is_named(tmp_path, facts, said):
    with pytest.raises(CheckpointError, match=f"could not be read as a saved attribution: .*{said}"):
        Attribution.load(changed(tmp_path / "x.safetensors", **facts))


def test_entries_of_later_versions_are_passed_over_and_other_numbers_converted(tmp_path):
    target = {"position": "3", "token": "\n", "next_tokens": [[" x", 1]], "later": {"a": 1}}
    loaded = Attribution.load(changed(tmp_path / "x.safetensors", later=[1], target=target))
    assert (loaded.target.position, loaded.target.next_tokens) == (3, ((" x", 1.0),))
    header, _ = parts((tmp_path / "x.safetensors").read_bytes())
    save_file({"scores": make().scores.double()}, tmp_path / "x.safetensors", header["__metadata__"])
    assert torch.equal(Attribution.load(tmp_path / "x.safetensors").scores, make().scores)


def test_scores_that_are_no_numbers_load_and_are_not_drawn(tmp_path):
    """A model in float16 may overflow: its result can be kept and looked into, as when it was made."""
    scores = make().scores.clone()
    scores[0, 0, 0] = float("nan")
    loaded = Attribution.load(dataclasses.replace(make(), scores=scores).save(tmp_path / "x.safetensors"))
    assert torch.equal(loaded.scores.isnan(), scores.isnan())
    with pytest.raises(MambascopeError, match="not finite numbers"):
        loaded.to_html()


def test_scores_that_overflow_only_together_are_not_drawn():
    largest = torch.finfo(torch.float32).max
    huge = dataclasses.replace(make(), scores=make().scores.sign() * largest, over_layers="sum")
    for draw in (huge.to_html, huge.plot, huge.show):
        with pytest.raises(MambascopeError, match="all layers' together are not finite numbers"):
            draw()


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "empty.safetensors").touch()
    for name in ("pipe", "folder", "empty", "none", "x" * 300, "a\0b"):
        with pytest.raises(CheckpointError, match="could not be read as a saved attribution"):
            Attribution.load(tmp_path / f"{name}.safetensors")
