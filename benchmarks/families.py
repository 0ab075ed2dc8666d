"""The table of families in docs/families.md: every family, measured against the model's own code.

    python -m benchmarks.families --out docs/families.md [--families qwen3_next,bamba]

Each row is a small random model of the stock class, weights from N(0, 0.4), with every kind of layer that the family
has; three texts, two of them padded on the left where the class can tell. Errors are relative, the worst of all layers
and texts. The columns:

* output: ‖ΣT + β - y‖ / ‖y‖, the mixers' contributions, tile by tile, and biases, against what the stock code computed;
* stream: what the layers add against how the residual stream changes;
* mean, heads: hidden attention tile by tile, against the mixer run forwards on one source after the other;
* LaTIM: every contribution from tiles, against the vectors of one target after the other;
* rollout: a row by reversed scans, against the product of dense matrices;
* ALTI-Logit, LRP: the terms' sum against the logit;
* knockout: logits when the last target's sources are cut in one layer, against the stock model run with that layer's
  output replaced at the target;
* padding, batch: rollout of a text in a batch, padded on the right or not, against that of the text alone;
* bf16: output, in bfloat16.

"—" is a refusal by name: the method says why it cannot read such a model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from hybrids import HYBRIDS, hybrid_model, in_double
from mambascope import capture, methods, readouts
from mambascope.errors import UnsupportedModelError
from mambascope.operators.affine_map import AffineMap
from mambascope.trace.intervene import Knockout, intervening
from mambascope.trace.running import call, running
from models import CONFIGS, TRANSFORMERS, padded_batch, stock_model, stock_transformer, without_downcasts

LENGTH, TEXTS = 12, 3
COLUMNS = ("output", "stream", "mean", "heads", "LaTIM", "rollout", "ALTI-Logit", "LRP", "knockout", "padding", "batch")


def asked(trace: Any) -> Any:
    """Return the number that is explained: the logit of one token less that of another, or BERT's logit of a class."""
    if trace.model.config.model_type == "bert":
        return readouts.class_(1, positions=[0])
    return readouts.token(-1, 7, foil=9)


def relative(found: Tensor, expected: Tensor) -> float:
    """Return ‖found - expected‖ / ‖expected‖ in float64."""
    difference = torch.linalg.vector_norm((found - expected).double())
    return float(difference / torch.linalg.vector_norm(expected.double()).clamp_min(1e-300))


def output(trace: Any) -> float:
    worst = 0.0
    for layer, block in enumerate(trace.layers):
        worst = max(worst, relative(_summed(trace.operator(layer)), block.y))
    return worst


def _summed(operator: AffineMap) -> Tensor:
    """Return ΣT + β from the tiles of all contributions."""
    total = operator.bias()
    for block, tile in operator.contribution_tiles():
        total[:, block.rows] += tile.sum(dim=-1).transpose(1, 2)
    return total


def stream(trace: Any) -> float:
    return max(block.stream_error for block in trace.layers)


def real(trace: Any) -> Tensor:
    """Return True at real tokens, (b, L)."""
    if trace.attention_mask is None:
        return torch.ones(trace.shape, dtype=torch.bool, device=trace.layers[0].x.device)
    return trace.attention_mask.bool()


def by_columns(scan: Any, batch: int, length: int) -> Tensor:
    """Return the mixing matrix of every map (b, M, L, L), from one pass of the mixer per source."""
    columns = []
    for source in range(length):
        unit = scan.skip.new_zeros(batch, length, len(scan.skip))
        unit[:, source] = 1
        columns.append(scan.apply(unit).transpose(1, 2))
    return torch.stack(columns, dim=-1).unflatten(1, (scan.maps, -1))[:, :, 0]


def each_mixer(trace: Any) -> list[Any]:
    return [branch.operator().scan for branch in trace.branches]


def mean(trace: Any) -> float:
    worst = 0.0
    for layer, block in enumerate(trace.layers):
        expected = sum(
            branch.scale * by_columns(branch.operator().scan, *trace.shape).mean(dim=1) for branch in block.branches
        )
        pairs = real(trace)[:, :, None] & real(trace)[:, None]  # padding has no scores, whatever its rows hold
        worst = max(worst, relative(methods.hidden_attention(trace, layer, "mean"), expected * pairs))
    return worst


def heads(trace: Any) -> float:
    return max(
        relative(branch.operator().scan.tile(slice(0, trace.shape[1]), slice(0, trace.shape[1])), expected)
        for branch in trace.branches
        for expected in [by_columns(branch.operator().scan, *trace.shape)]
    )


def latim(trace: Any) -> float:
    worst, length = 0.0, trace.shape[1]
    for layer in range(len(trace.layers)):
        operator = trace.operator(layer)
        tiles = operator.x.new_zeros(trace.shape[0], operator.output().shape[-1], length, length)
        for block, tile in operator.contribution_tiles():
            tiles[:, :, block.rows, block.columns] = tile
        rows = torch.stack([operator.contributions(target)[0] for target in range(length)], dim=1)
        worst = max(worst, relative(tiles, rows.permute(0, 3, 1, 2)))
    return worst


def rollout(trace: Any) -> float:
    """Compare the rows of each text's last token and of the one two before it."""
    dense, worst = methods.rollout(trace), 0.0
    for back in (-1, -3):
        places = [int(row.nonzero()[back]) for row in real(trace)]
        expected = torch.stack([dense[text, place] for text, place in enumerate(places)])
        worst = max(worst, relative(methods.rollout_row(trace, back), expected))
    return worst


def alti_logit(trace: Any) -> float:
    return float(methods.alti_logit(trace, asked(trace)).conservation_error.max())


def lrp(trace: Any) -> float:
    return float(methods.mamba_lrp(trace, asked(trace)).conservation_error.max())


def knockout(trace: Any) -> float:
    """Cut all sources of one target in one mixer at a time: the same as to write what the mixer makes of nothing."""
    worst, target = 0.0, 0 if trace.logits.ndim == 2 else trace.shape[1] - 2  # BERT reads its first token
    everything = torch.ones_like(real(trace))
    for branch in trace.branches:
        dtype = torch.promote_types(branch.captured.y.dtype, torch.float32)
        operator = branch.family.affine(branch.mixer, branch.captured, dtype)
        nothing = operator._written(torch.zeros_like(operator.u))[:, target]

        def silenced(_: Any, __: Any, output: Any, nothing: Tensor = nothing) -> Any:
            y = (output[0] if isinstance(output, tuple) else output).clone()
            y[:, target] = nothing.to(y.dtype)
            return (y, *output[1:]) if isinstance(output, tuple) else y

        with running(trace.model, eager=True) as own, torch.no_grad():
            with intervening(own, Knockout((branch.name,), everything, (target,))):
                found = call(own, dict(trace.inputs)).logits
            mixer, writer = own.get_submodule(branch.name), getattr(branch.family, "writer", None)
            with intervening(own, None), hooked(mixer if writer is None else writer(mixer), silenced):
                expected = call(own, dict(trace.inputs)).logits
        if torch.equal(found, trace.logits):
            return float("inf")  # nothing was cut
        kept = real(trace) if found.ndim == 3 else slice(None)  # BERT's logits are of texts, not of tokens
        worst = max(worst, relative(found[kept], expected[kept]))
    return worst


@contextmanager
def hooked(module: Any, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def score(trace: Any) -> Tensor:
    """Return a row of scores that every layer takes part in."""
    return methods.rollout_row(trace, -1)


def padding(model: Any, inputs: dict[str, Tensor]) -> float:
    """Return how far the scores of padded texts are from those of each text alone; infinity if padding has any."""
    together, worst = score(capture(model, **inputs)), 0.0
    for row, mask in enumerate(inputs["attention_mask"].bool()):
        alone = score(capture(model, input_ids=inputs["input_ids"][row, mask][None]))[0]
        if together[row, ~mask].any():
            return float("inf")
        worst = max(worst, relative(together[row, mask], alone))
    return worst


def batch(model: Any, inputs: dict[str, Tensor]) -> float:
    """Return how far the scores of several texts are from those of each text alone."""
    together = score(capture(model, input_ids=inputs["input_ids"]))
    alone = [score(capture(model, input_ids=row[None]))[0] for row in inputs["input_ids"]]
    return relative(together, torch.stack(alone))


def of_trace(trace: Any) -> dict[str, Callable[[], float]]:
    """Return the measurements of one run, by column."""
    return {
        "output": lambda: output(trace),
        "stream": lambda: stream(trace),
        "mean": lambda: mean(trace),
        "heads": lambda: heads(trace),
        "LaTIM": lambda: latim(trace),
        "rollout": lambda: rollout(trace),
        "ALTI-Logit": lambda: alti_logit(trace),
        "LRP": lambda: lrp(trace),
        "knockout": lambda: knockout(trace),
    }


def measure(
    family: str, dtype: torch.dtype, device: str = "cpu", unless: Callable[[Callable[[], float]], Any] | None = None
) -> dict[str, Any]:
    """Return the errors of a family in one precision, by column; None where a method refuses by name.

    Args:
        family: Its name.
        dtype: The precision of the weights.
        device: Where the model runs.
        unless: Runs each measurement; by default one that is refused gives None, and other exceptions pass.
    """
    run = _unless_refused if unless is None else unless
    with made(family, dtype) as model:
        model.to(device)
        ids, mask = (t.to(device) for t in padded_batch(LENGTH, TEXTS, PADDED.get(family, "left")))
        whole = {"input_ids": torch.randint(1, 50, ids.shape, generator=torch.Generator().manual_seed(1)).to(device)}
        padded = whole if family in UNPADDED else {"input_ids": ids, "attention_mask": mask}
        trace = capture(model, **padded)
        columns = of_trace(trace) | {"batch": lambda: batch(model, whole)}
        if padded is not whole:
            ids, mask = (t.to(device) for t in padded_batch(LENGTH, TEXTS, "right"))
            columns["padding"] = lambda: padding(model, {"input_ids": ids, "attention_mask": mask})
        return {name: run(columns[name]) if name in columns else None for name in COLUMNS}


def in_bfloat16(family: str, device: str = "cpu") -> float:
    """Return the error of the mixers' outputs in bfloat16."""
    with made(family, torch.bfloat16) as model:
        return output(capture(model.to(device), input_ids=padded_batch(LENGTH, TEXTS, "left")[0].to(device)))


def _unless_refused(run: Callable[[], float]) -> float | None:
    try:
        return run()
    except UnsupportedModelError:
        return None


@contextmanager
def made(family: str, dtype: torch.dtype) -> Iterator[Any]:
    """Yield a small stock model; in float64, its class's own casts to float32 do nothing inside the block."""
    if family in HYBRIDS:
        with in_double(family) if dtype == torch.float64 else nullcontext(hybrid_model(family, dtype)) as model:
            yield model
        return
    with without_downcasts(family) if dtype == torch.float64 else nullcontext():
        yield (stock_model if family in CONFIGS else stock_transformer)(family, dtype)


def table(rows: dict[str, dict[str, float | None]]) -> str:
    """Return errors as a Markdown table."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    for family, found in rows.items():
        cells = ("—" if found[name] is None else f"{found[name]:.0e}" if found[name] else "0" for name in COLUMNS)
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


PAGE = """# Families

Which models can be read, and how exactly. Each row is a small random model of the stock class (transformers
{transformers}, torch {torch}), weights from N(0, 0.4), with every kind of layer that the family has. `make families`
makes the tables; the tests hold every cell to its bound.

{columns}

"—": refused by name, or not to be had; see below.

## In float64

The stock classes' own casts to float32 are switched off here, as in the tests. Bound: {double:.0e}, sums of a few
hundred terms in another order.

{in_double}

## In float32

As anyone runs them. Bound: {single:.0e}, through up to six layers; of padding ten times that, since texts of other
lengths are summed in another order.

{in_single}

## In bfloat16

The error of the mixers' outputs, worst layer. Bound: {half:.0e}, a dozen products of numbers with 8 bits.

{in_half}

## What is not in the tables

* RecurrentGemma and RWKV-4 read padding on the left as if it were text, so it is refused: pad on the right. xLSTM takes
  no mask.
* xLSTM's stock class fails in bfloat16.
* ALTI-Logit follows a stream with a norm at its end; BERT normalises after each sum, so it is refused there.
"""

#: Bounds of the tests.
BOUNDS = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2}
#: Texts of other lengths are summed in another order, which several layers magnify: ten times the bound.
LOOSER = {"padding": 10.0}
#: Where padding must stand if not on the left, which families have none, and which cannot run in bfloat16.
PADDED = {"recurrent_gemma": "right", "rwkv": "right", "bert": "right"}
UNPADDED = ("xlstm",)
NOT_HALF = ("xlstm",)
#: Families whose models read text; the picture models' figures are elsewhere.
FAMILIES = tuple(name for name in (*CONFIGS, *TRANSFORMERS, *HYBRIDS) if name != "vit")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--families", default=",".join(FAMILIES), help="names, separated by commas")
    asked = parser.parse_args()
    transformers.logging.set_verbosity_error()
    names = asked.families.split(",")
    tables = {dtype: {} for dtype in BOUNDS}
    for name in names:
        for dtype in (torch.float64, torch.float32):
            tables[dtype][name] = measure(name, dtype)
            print(name, dtype, tables[dtype][name], flush=True)
    half = {name: in_bfloat16(name) for name in names if name not in NOT_HALF}
    heading = (__doc__ or "").split("The columns:\n\n")[1].split("\n\n")[0].rpartition("\n* bf16")[0]
    page = PAGE.format(
        transformers=transformers.__version__,
        torch=torch.__version__.split("+")[0],
        columns=heading,
        double=BOUNDS[torch.float64],
        single=BOUNDS[torch.float32],
        half=BOUNDS[torch.bfloat16],
        in_double=table(tables[torch.float64]),
        in_single=table(tables[torch.float32]),
        in_half="\n".join(["| | output |", "| --- | ---: |", *(f"| {name} | {x:.0e} |" for name, x in half.items())]),
    )
    asked.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
