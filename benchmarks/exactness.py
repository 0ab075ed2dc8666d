"""The table of verified errors in the README: every family and map against the specification's loops.

    python -m benchmarks.exactness [--length 24]

Weights from N(0, 0.4), left-padded batch of 3. In float64 the stock modelling code runs with its own casts to float32
switched off, as in the tests. Errors are relative, ‖ours - reference‖ / ‖reference‖, the worst of all layers and rows:

* output: ΣT + β of the tiled form against the mixer's output as the stock code computed it;
* maps: hidden attention, implicit attention and LaTIM ℓ2 against dense float64 loops.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "references"))

from mambascope import capture, methods
from mambascope.operators import naive
from mambascope.operators.affine import AffineMixer
from mambascope.operators.state_space_dual import StateSpaceDual
from models import FAMILIES, padded_batch, stock_model, without_downcasts
from naive_layers import naive_layer, relative


def dense(operator: AffineMixer, row: int) -> torch.Tensor:
    """Return the hidden attention per channel, (D, L, L), from loops."""
    scan = operator.scan
    form = naive.state_space_dual_matrix if isinstance(scan, StateSpaceDual) else naive.selective_scan_matrix
    return form(scan.dt[row], scan.A, scan.B[row], scan.C[row])


def implicit(operator: AffineMixer, row: int) -> torch.Tensor:
    """Return the mean implicit attention, (L, L): contributions of a unit u, with W_o the mean over channels."""
    scan, length, width = operator.scan, operator.length, operator.inner_width
    kept = torch.ones(length) if operator.mask is None else operator.mask[row]
    alpha = dense(operator, row).repeat_interleave(width // scan.maps, dim=0)
    alpha = (alpha + torch.diag_embed(scan.skip.double()[:, None].expand(-1, length))) * kept.double()
    a = operator.preactivation[row].double()
    mean = torch.full((1, width), 1 / width, dtype=torch.float64)
    unit = torch.ones(length, width, dtype=torch.float64)
    return naive.contribution_vectors(alpha, scan.skip * 0, unit, operator.conv, a, operator.gate[row], mean)[..., 0]


def errors(family: str, dtype: torch.dtype, length: int) -> list[float]:
    """Return the four worst errors of a family in one precision."""
    model = stock_model(family, dtype)
    ids, mask = padded_batch(length, 3, "left")
    if dtype == torch.float64:
        with without_downcasts(family):
            trace = capture(model, input_ids=ids, attention_mask=mask)
    else:
        trace = capture(model, input_ids=ids, attention_mask=mask)
    worst = [0.0] * 4
    for layer in range(len(trace.layers)):
        operator, y = trace.operator(layer), trace.branches[layer].captured.y
        total = operator.bias()
        for block, tile in operator.contribution_tiles():
            total[:, block.rows] += tile.sum(dim=-1).transpose(1, 2)
        maps = [
            methods.hidden_attention(trace, layer),
            methods.implicit_attention(trace, layer, "mean"),
        ]
        maps.append(methods.latim(trace, layer))
        for row in range(3):
            T, _ = naive_layer(operator, row)
            references = [dense(operator, row), implicit(operator, row), T.norm(dim=-1)]
            found = [relative(ours[row], exact) for ours, exact in zip(maps, references, strict=True)]
            worst = [max(a, b) for a, b in zip(worst, [relative(total[row], y[row]), *found], strict=True)]
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=24)
    length = parser.parse_args().length
    transformers.logging.set_verbosity_error()
    print("| family | precision | output ΣT + β | hidden attention | implicit attention | LaTIM |")
    print("| --- | --- | --- | --- | --- | --- |")
    for family in FAMILIES:
        for dtype in (torch.float64, torch.float32):
            cells = " | ".join(f"{error:.0e}" for error in errors(family, dtype, length))
            print(f"| {family} | {str(dtype).removeprefix('torch.')} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
