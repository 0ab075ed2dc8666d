"""The bundled models are what their cards say: small, rebuilt exactly, and worth looking at."""

import pytest

import mambascope

TEXT = "Mr. Bolton was a rich man, and Mrs. Bolton was proud of it. Every day Mr. B"
NAMES = ("tiny-mamba", "tiny-mamba2")


def test_both_come_with_the_package():
    assert tuple(mambascope.bundled_models()) == NAMES
    for folder in mambascope.bundled_models().values():
        assert (folder / "model.safetensors").stat().st_size <= 6_000_000


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
