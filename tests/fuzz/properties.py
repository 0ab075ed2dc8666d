"""What must hold of results, and of models that were looked at."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mambascope import Attribution, MambascopeError

from .findings import BrokenError

#: Largest relative error of a sum that must be kept, by precision.
KEPT = {torch.float64: 1e-5, torch.float32: 1e-2}
#: Methods whose terms must add up to what is explained; those of the gradient family only come near it.
CONSERVING = ("mamba-lrp", "alti-logit")


def require(holds: bool, kind: str, what: str) -> None:
    if not holds:
        raise BrokenError(kind, what)


def sound(result: Attribution, *, causal: bool, padded: Iterable[int] = (), dtype: torch.dtype = torch.float32) -> None:
    """Hold a result to what is true of every one.

    Args:
        result: The result.
        causal: Whether the model's positions see only those before them.
        padded: Positions of padding, from which nothing may come.
        dtype: The precision of the model.
    """
    scores, what = result.scores, result.method
    require(scores.dtype == torch.float32, "shape or type", f"{what}: {scores.dtype}")
    require(bool(scores.isfinite().all()), "NaN or infinity", what)
    require(result.pixels is None or bool(result.pixels.isfinite().all()), "NaN or infinity", f"pixels of {what}")
    require(result.signed or bool((scores >= 0).all()), "sign", f"{what} is unsigned and holds a negative score")
    if causal and result.target.pooled == 1:
        for row, place in enumerate(result.axes["target"]):
            require(not scores[:, row, place + 1 :].any(), "future not zero", what)
    for place in padded:
        require(not scores[:, :, place].any(), "padding not zero", what)
    evidence = result.diagnostics
    if what in CONSERVING and "conservation_error" in evidence and dtype in KEPT:
        require(evidence["conservation_error"] <= KEPT[dtype], "sum not kept", what)
    plain_numbers(evidence, f"evidence of {what}")


def plain_numbers(value: Any, what: str) -> None:
    """Require that a value can be written as JSON that every program can read."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise BrokenError("NaN or infinity", f"{what} as JSON") from error


def close(found: Tensor, expected: Tensor, kind: str, what: str, bound: float = 1e-3) -> None:
    """Require that two computations of one thing agree but for rounding, which deep chains of sums make larger."""
    require(found.shape == expected.shape, kind, f"{what}: another shape")
    found, expected = found.detach().double(), expected.detach().double()
    apart, size = float((found - expected).abs().max()), float(expected.abs().max())
    require(apart <= bound * size or apart < 1e-30, kind, what)


def each(calls: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Make each call, whether or not another is refused, and return what those returned that were not."""
    answers = {}
    for name, call in calls.items():
        with contextlib.suppress(MambascopeError), contextlib.redirect_stdout(io.StringIO()):
            answers[name] = call()
    return answers


def verbs(result: Attribution, folder: Path, *, formats: Iterable[str] = (), draw: bool = False) -> None:
    """Use every verb of a result; what is written and read again must be the same."""
    layer = result.axes["layer"][0] if len(result.axes["layer"]) else 0
    calls: dict[str, Callable[[], Any]] = {
        "repr": lambda: repr(result),
        "row": result.row,
        "row of a layer": lambda: result.row(layer=layer),
        "rows": lambda: [result.row(place) for place in list(result.axes["target"])[:5]],
        "matrix": result.matrix,
        "top": lambda: [result.top(), result.top(3, layer=layer), result.top(0), result.top(10**6)],
        "mass": result.layer_mass,
        "picture": result.picture,
        "anchors": lambda: result.anchors,
        "plain": result.to_dict,
        "show": result.show,
        "notebook": result._repr_html_,
        "page": result.to_html,
        "array": lambda: [result.to_xarray(), result.to_xarray(result)],
        "frame": lambda: [result.to_dataframe(), result.to_dataframe(result)],
        "table": lambda: [result.to_csv(), result.to_csv(result)],
        "heads": lambda: [result.to_bertviz(), result.to_circuitsvis()],
        "graph": result.to_neuronpedia,
        "words": lambda: [result.words(), result.words(sources="max", targets="sum")],
        "sentences": lambda: result.spans("sentences").to_html(),
        "sum": lambda: result + result,
    }
    if draw:
        calls["figure"] = result.plot
    answers = each(calls)
    if draw:
        import matplotlib.pyplot as plt

        plt.close("all")
    for name, verb in (("plain", "to_dict"), ("graph", "to_neuronpedia")):
        if name in answers:
            plain_numbers(answers[name], verb)
    for ending in formats:
        path = folder / f"result.{ending}"
        path.write_text("an older result")
        saved = each({"save": lambda path=path: result.save(path)})
        if not saved:
            require(path.read_text() == "an older result", "lost file", f"{ending}: refused, and the old file is gone")
            path.unlink()
            continue
        require(saved["save"] == path and path.stat().st_size > 0, "lost file", f"{ending}: not written")
        if ending == "safetensors":
            again = Attribution.load(path)
            same = again.tokens == result.tokens and again.scores.shape == result.scores.shape
            same = same and torch.allclose(again.scores, result.scores, rtol=0, atol=0, equal_nan=True)
            same = same and repr(again.to_dict()) == repr(result.to_dict())  # NaN is not equal to itself
            require(same, "not the same again", "Attribution.save and load")
        path.unlink()
    only(folder, ())


def only(folder: Path, names: Iterable[str]) -> None:
    """Require that a folder holds these files and no others."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    extra = sorted(found - set(names))
    require(not extra, "file left", f"{Path(extra[0]).suffix or extra[0]} beside what was asked for" if extra else "")


def state_of(model: nn.Module) -> dict[str, Any]:
    """Return what a call may not change of a model."""
    modules = dict(model.named_modules())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    config = getattr(model, "config", None)
    return {
        "training": [one.training for one in modules.values()],
        "hooks": [list(getattr(one, name)) for one in modules.values() for name in hooks],
        "methods": [sorted(key for key in vars(one) if key in ("forward", "__call__")) for one in modules.values()],
        "requires_grad": [one.requires_grad for one in model.parameters()],
        "gradients": [one.grad is None for one in model.parameters()],
        "weights": [(one.data_ptr(), one.dtype, _version(one)) for one in model.parameters()],
        "buffers": [(one.data_ptr(), one.dtype, _version(one)) for one in model.buffers()],
        "configuration": None if config is None else (str(config.to_dict()), config._attn_implementation),
    }


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


@contextlib.contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Require that a model is the same after the block as before, whatever the block raises."""
    before = state_of(model)
    try:
        yield
    finally:
        after = state_of(model)
        changed = [name for name in before if before[name] != after[name]]
        require(not changed, "model left changed", ", ".join(changed))
