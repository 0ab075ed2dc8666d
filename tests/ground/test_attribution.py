"""The result type: its views agree, it survives a round trip, and a half-written file is refused."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from made_results import make
from mambascope import Attribution
from mambascope.errors import CheckpointError, InputError
from rounding import assert_equal_to_rounding


def test_views_agree():
    result = make()
    assert_equal_to_rounding(result.matrix(), result.scores.mean(0))
    assert torch.equal(result.matrix(4), result.scores[1])
    assert_equal_to_rounding(result.row(), result.scores[:, 3].mean(0))
    assert torch.equal(result.row(2, layer=1), result.scores[0, 2])
    assert_equal_to_rounding(result.layer_mass(), result.scores[:, 3].double().abs().sum(-1))


def test_top_is_sorted_by_size_and_its_shares_add_up():
    result = make()
    top = result.top(10)
    assert [abs(s.score) for s in top] == sorted((abs(s.score) for s in top), reverse=True)
    assert sum(s.share for s in top) == pytest.approx(1)
    assert len(result.top(10, position=1)) == 2, "sources of the future are not listed"
    assert result.top(1)[0].token == result.tokens[result.top(1)[0].position]


def test_a_saved_result_comes_back_whole(tmp_path):
    result = make()
    loaded = Attribution.load(result.save(tmp_path / "x.safetensors"))
    assert torch.equal(loaded.scores, result.scores)
    for name in ("tokens", "axes", "method", "target", "model", "signed", "diagnostics"):
        assert getattr(loaded, name) == getattr(result, name), name
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_file_from_before_classes_could_be_independent_is_read(tmp_path):
    path = make().save(tmp_path / "x.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata, scores = file.metadata(), file.get_tensor("scores")
    header = json.loads(metadata["attribution"])
    assert header["target"].pop("independent") is False
    save_file({"scores": scores}, path, metadata=metadata | {"attribution": json.dumps(header)})
    assert Attribution.load(path).target == make().target


def of_kinds(kinds, **diagnostics):
    result = make()
    model = dataclasses.replace(result.model, kinds=kinds)
    return dataclasses.replace(result, model=model, diagnostics=result.diagnostics | diagnostics)


def test_the_kinds_of_layers_are_the_models_and_share_the_scores():
    """The layers of the axis are 1 and 4 of seven."""
    assert make().layer_kinds == ()
    assert make().kind_shares() == {}
    hybrid = of_kinds(("scan", "scan", "scan", "scan", "attention", "scan", "scan"))
    assert hybrid.layer_kinds == ("scan", "attention")
    for position in (None, 2):
        first, second = hybrid.layer_mass(position).tolist()
        assert hybrid.kind_shares(position) == pytest.approx(
            {"scan": first / (first + second), "attention": second / (first + second)}
        )
    alike = of_kinds(("scan",) * 7)
    assert alike.layer_kinds == ("scan", "scan")
    assert alike.kind_shares() == {}


def test_a_methods_own_shares_are_those_of_its_targets():
    shares = [{"scan": 0.1 * row, "attention": 1 - 0.1 * row} for row in range(4)]
    kinds = ("scan", "scan", "scan", "scan", "attention", "scan", "scan")
    result = of_kinds(kinds, share_by_kind=shares[3], per_target=[{"share_by_kind": one} for one in shares])
    assert result.kind_shares() == shares[3]
    assert result.kind_shares(1) == shares[1]
    with pytest.raises(InputError, match="position 9 is not in this result"):
        of_kinds(kinds).kind_shares(9)


def test_a_file_of_an_earlier_version_keeps_the_kinds_it_has(tmp_path):
    """They were in the evidence, one for each layer of the axis; the model had none."""
    path = of_kinds((), layer_kinds=["scan", "attention"]).save(tmp_path / "x.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata, scores = file.metadata(), file.get_tensor("scores")
    header = json.loads(metadata["attribution"])
    assert header["model"].pop("kinds") == []
    save_file({"scores": scores}, path, metadata=metadata | {"attribution": json.dumps(header)})
    loaded = Attribution.load(path)
    assert loaded.layer_kinds == ("scan", "attention")
    assert set(loaded.kind_shares()) == {"scan", "attention"}


def test_kinds_that_do_not_fit_the_layers_are_refused(tmp_path):
    path = of_kinds(("scan", "attention")).save(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="2 kinds were given for 7 layers"):
        Attribution.load(path)


def test_a_half_written_or_foreign_file_is_refused(tmp_path):
    path = make().save(tmp_path / "x.safetensors")
    path.write_bytes(path.read_bytes()[:-8])
    (tmp_path / "y.safetensors").write_text("not a tensor file")
    for broken in ("x", "y", "absent"):
        with pytest.raises(CheckpointError, match=broken) as caught:
            Attribution.load(tmp_path / f"{broken}.safetensors")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="does not exist"):
        make().save(tmp_path / "no" / "x.safetensors")


def test_the_dictionary_is_what_json_prints():
    result = make()
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["tokens"] == list(result.tokens)
    assert plain["position"] == 3
    assert plain["scores"] == pytest.approx(result.row().tolist())
    assert [layer["layer"] for layer in plain["layers"]] == [1, 4]
    assert plain["diagnostics"]["reconstruction_error"] == 1e-7


def test_xarray_has_named_axes():
    array = make().to_xarray()
    assert array.dims == ("layer", "target", "source")
    assert float(array.sel(layer=4, target=2, source=1)) == pytest.approx(float(make().scores[1, 2, 1]))
    assert list(array.token.values) == ["a", " b", "<c>", "\n"]


def test_wrong_shapes_and_places_are_refused():
    with pytest.raises(InputError, match="layer 2 is not in this result"):
        make().matrix(2)
    with pytest.raises(InputError, match="position 1 is not in this result"):
        make(targets=(3,)).row(1)
    good = make()
    with pytest.raises(InputError, match="do not match axes"):
        Attribution(**{**vars(good), "axes": good.axes | {"layer": (1,)}})
    with pytest.raises(InputError, match="3 tokens were given for 4"):
        Attribution(**{**vars(good), "tokens": ("a", "b", "c")})


def test_the_mass_of_large_scores_is_finite():
    result = make()
    large = dataclasses.replace(result, scores=torch.full_like(result.scores, 3e38))
    assert large.layer_mass().isfinite().all(), "their sum is beyond float32"
