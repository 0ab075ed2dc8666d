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
