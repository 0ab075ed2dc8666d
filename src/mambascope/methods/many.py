"""Many readouts of one text at once, where that is cheaper than one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.methods import gradients, mamba_lrp
from mambascope.methods.alti import alti
from mambascope.methods.alti_logit import alti_logit
from mambascope.methods.case import at_positions
from mambascope.methods.copies import batches, copies
from mambascope.methods.occlusion import occlusion
from mambascope.methods.readout import OneEach, Readout
from mambascope.trace import Trace
from mambascope.trace.differentiate import directions

#: (model, inputs of one text, its trace, readouts) → one set of rows for the model, or one per layer; they add up.
ManyRows = Callable[[nn.Module, Mapping[str, Any], Trace, Sequence[Readout]], Float[Tensor, "layer T L"]]


def alti_logit_rows(
    model: nn.Module, inputs: Mapping[str, Any], trace: Trace, readouts: Sequence[Readout]
) -> Float[Tensor, "layer T L"]:
    """Return ALTI-Logit's rows: the layers' ALTI maps are the same for every readout and are made once."""
    maps = [alti(trace, layer) for layer in range(len(trace.layers) - 1)]
    found = [alti_logit(trace, one, maps=maps).scores[0] for one in directions(model, readouts, **inputs)]
    return torch.stack(found, dim=1)


def _side_by_side(
    method: Callable[..., Any],
    model: nn.Module,
    inputs: Mapping[str, Any],
    trace: Trace,
    readouts: Sequence[Readout],
) -> Float[Tensor, "1 T L"]:
    """Return the rows of a method that explains a batch: copies of the text side by side, each with its own readout."""
    parts = []
    for start, stop in batches(len(readouts), trace.shape[1], None):
        asked = OneEach(tuple(readouts[start:stop]))
        parts.append(method(model, asked, **copies(dict(inputs), stop - start)).scores)
    return at_positions(trace, torch.cat(parts))[None]


def mamba_lrp_rows(
    model: nn.Module, inputs: Mapping[str, Any], trace: Trace, readouts: Sequence[Readout]
) -> Float[Tensor, "1 T L"]:
    """Return MambaLRP's rows, by the published rules for language or for vision."""
    rules = mamba_lrp.published_rules(inputs)
    return _side_by_side(partial(mamba_lrp.mamba_lrp, rules=rules), model, inputs, trace, readouts)


def occlusion_rows(
    model: nn.Module, inputs: Mapping[str, Any], trace: Trace, readouts: Sequence[Readout]
) -> Float[Tensor, "1 T L"]:
    """Return occlusion's rows: every readout is read from the same passes, the intact one and then those without."""
    noted: list[Float[Tensor, "T b"]] = []

    def noting(outputs: Any) -> Float[Tensor, " b"]:
        values = torch.stack([readout(outputs) for readout in readouts])
        noted.append(values.to(torch.promote_types(values.dtype, torch.float32)))
        return values[0]

    occlusion(model, noting, **inputs)
    intact, *without = noted
    return at_positions(trace, intact - torch.cat(without, dim=1))[None]


gradient_x_input_rows: ManyRows = partial(_side_by_side, gradients.gradient_x_input)
