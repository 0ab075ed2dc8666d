"""The bundled models are what their cards say: small, rebuilt exactly, and worth looking at."""

from pathlib import Path

import pytest

import mambascope
from mambascope.errors import InputError
from mambascope.explanation import explain

TEXT = "Mr. Bolton was a rich man, and Mrs. Bolton was proud of it. Every day Mr. B"
#: A white 6, a yellow 1 and a blue 0 before grass.
DIGITS = Path(__file__).parents[2] / "docs" / "digits.png"
NAMES = ("tiny-mamba", "tiny-mamba2")
HYBRIDS = ("tiny-delta-hybrid", "tiny-hybrid")


def test_four_come_with_the_package():
    bundled = mambascope.bundled_models()
    assert tuple(name for name in bundled if not name.startswith("zoo:")) == (*HYBRIDS, *NAMES)
    for name in (*HYBRIDS, *NAMES):
        assert (bundled[name] / "model.safetensors").stat().st_size <= 6_000_000


ZOO = [name for name in mambascope.bundled_models() if name.startswith("zoo:")]


@pytest.mark.parametrize("name", ZOO or ["zoo:none"])
def test_a_clone_has_its_zoo(name):
    if not ZOO:
        pytest.skip("the package is installed without the repository around it, so there is no zoo")
    folder = mambascope.bundled_models()[name]
    assert (folder / "model.safetensors").stat().st_size <= 8_000_000
    assert (folder / "README.md").is_file(), "a model has a card"
    model, tokenizer = mambascope.load(name)
    if "vision" in name:
        result = explain(model, None, DIGITS, target="6")
        seen = {label for label, share in result.target.next_tokens if share > 0.5}
        assert seen == {"0", "1", "6"}
        with pytest.raises(InputError, match="there is no picture 9"):
            mambascope.explain(model, None, "9")
    else:
        result = mambascope.explain(model, tokenizer, "abc" if "copying" in name else "It was a good day .")
    assert result.diagnostics["reconstruction_error"] < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_a_name_seen_before_is_completed_from_where_it_stood(name):
    """Induction: ' B' is followed by 'ol' because it was before, and the layer that does it draws on exactly those."""
    model, tokenizer = mambascope.load(name)
    result = mambascope.explain(model, tokenizer, TEXT)
    token, share = result.target.next_tokens[0]
    assert token == "ol"
    assert share > 0.5
    assert result.diagnostics["reconstruction_error"] < 1e-5
    after = [j for j, piece in enumerate(result.tokens) if piece == "ol"]
    assert len(after) == 2
    for method in ("latim", "hidden-attention"):
        layer = mambascope.explain(model, tokenizer, TEXT, method=method, layer=1)
        distant = [source.position for source in layer.top(30) if source.position < result.target.position - 3]
        assert sorted(distant[:2]) == after, method
    other = mambascope.explain(model, tokenizer, TEXT.replace("Bolton", "Robinson"))
    assert dict(other.target.next_tokens).get("ol", 0) < 0.2


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_hybrid_draws_a_told_digit_from_where_it_was_told_and_by_attention(name):
    """In hybrids attention alone retrieves (arXiv 2510.19861): cut there, the digit is lost; elsewhere, it stays."""
    model, tokenizer = mambascope.load(name)
    text = "The secret of the doctor is 47192. It was a fine day, and the old man slept. The secret of the doctor is "
    result = mambascope.explain(model, tokenizer, text)
    token, share = result.target.next_tokens[0]
    assert token == "4"
    assert share > 0.5
    assert result.diagnostics["conservation_error"] < 1e-5
    assert result.top(1)[0].token == "4"
    shares = result.kind_shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["attention"] > 1 / len(result.model.kinds), "more than its part of the layers"
    ids = tokenizer([text], return_tensors="pt")["input_ids"]
    trace = mambascope.capture(model, input_ids=ids)
    told = result.top(1)[0].position
    readout = mambascope.readouts.token(-1, int(ids[0, told]))
    kinds = sorted(trace.kinds)
    lost = {kind: mambascope.methods.knockout(trace, readout, kinds={kind}).scores for kind in kinds}
    assert int(lost["attention"].argmax()) == told
    other = max(float(lost[kind][told].abs()) for kind in kinds if kind != "attention")
    assert float(lost["attention"][told]) > 10 * other
