"""Every method that explains the whole model, from a case to scores with their evidence."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from mambascope.methods import gradients, interventions, occlusion
from mambascope.methods.alti import alti_rollout_row
from mambascope.methods.alti_logit import alti_logit as logit_updates
from mambascope.methods.case import Case, Scored, at_positions
from mambascope.methods.control import random_scores
from mambascope.methods.implicit_attention import implicit_rollout_row
from mambascope.methods.mamba_attribution import mamba_attribution as attribution_scores
from mambascope.methods.mamba_lrp import mamba_lrp as relevance
from mambascope.methods.mamba_lrp import published_rules
from mambascope.methods.rollout import rollout_row
from mambascope.methods.transformer_attribution import transformer_attribution as chefer_scores
from mambascope.trace.rules import GRADIENT


def rollout(case: Case) -> Scored:
    """Attention rollout of hidden attention."""
    return Scored(rollout_row(case.trace, case.positions, compat=case.compat))


def rollout_normalised(case: Case) -> Scored:
    """Attention rollout with rows that sum to one."""
    return Scored(rollout_row(case.trace, case.positions, normalise=True))


def implicit_rollout(case: Case) -> Scored:
    """Attention rollout of implicit attention."""
    return Scored(implicit_rollout_row(case.trace, case.positions))


def mamba_attribution(case: Case) -> Scored:
    """Rollout weighted by gradients."""
    return Scored(attribution_scores(case.trace, case.gradients, case.positions, compat=case.compat))


def alti_rollout(case: Case) -> Scored:
    """Product of the layers' ALTI maps."""
    row = alti_rollout_row(case.trace, case.positions)
    return Scored(row, {"conservation_error": abs(1 - float(row.sum()))})


def alti_logit(case: Case) -> Scored:
    """The logit as a sum over inputs, layer by layer."""
    updates = logit_updates(case.trace, case.direction)
    terms = {"tokens": float(updates.scores[0].double().sum())}
    terms |= {name: float(term[0]) for name, term in updates.terms.items()}
    evidence = {"conservation_error": float(updates.conservation_error[0]), "terms": terms}
    return Scored(updates.scores[0], evidence | {"value": float(updates.value[0])})


def mamba_lrp(case: Case) -> Scored:
    """Relevance propagated from the readout to the tokens, by the published rules for language or for vision."""
    seen = case.inputs.get("pixel_values") is not None
    found = relevance(case.model, case.readout, rules=published_rules(case.inputs), pixels=seen, **case.inputs)
    evidence = {
        "value": float(found.value[0]),
        "conservation_error": float(found.conservation_error[0]),
        "terms": {name: float(term[0]) for name, term in found.terms.items()},
        "biases_per_layer": found.biases[0].tolist(),
    }
    if found.pixels is None:
        return Scored(found.scores, evidence)
    return Scored(found.scores, evidence | {"pixel_share": float(found.pixel_share[0])}, pixels=found.pixels[0])


def gradient_x_input(case: Case) -> Scored:
    """Gradient times input, of a picture's pixels as well."""
    scored = _gradients(case, gradients.gradient_x_input(case.model, case.readout, **case.inputs))
    if case.inputs.get("pixel_values") is None:
        return scored
    through = relevance(case.model, case.readout, rules=GRADIENT, pixels=True, **case.inputs)
    return replace(scored, pixels=None if through.pixels is None else through.pixels[0])


def integrated_gradients(case: Case) -> Scored:
    """Integrated gradients from the mean embedding, from zeros for pictures.

    After RMS norms nearly all change on the way from zero happens in its first millionth, which no sum of steps sees.
    """
    baseline: Literal["mean", "zero"] = "zero" if case.inputs.get("input_ids") is None else "mean"
    return _gradients(case, gradients.integrated_gradients(case.model, case.readout, baseline=baseline, **case.inputs))


def smooth_grad(case: Case) -> Scored:
    """Gradient times input averaged over noisy embeddings."""
    return _gradients(case, gradients.smooth_grad(case.model, case.readout, **case.inputs))


def transformer_attribution(case: Case) -> Scored:
    """Rollout of attention weighted by gradients."""
    return Scored(chefer_scores(case.trace, case.gradients, case.positions))


def value_zeroing(case: Case) -> Scored:
    """How far each layer's output turns at the target without one token's value."""
    rows = [
        interventions.value_zeroing(case.model, layer, **case.inputs)[list(case.positions)].mean(dim=0)
        for layer in range(len(case.trace.layers))
    ]
    return Scored(torch.stack(rows), over_layers="mean")


def knocked_out(case: Case) -> Scored:
    """Drop of the readout without what flows from one token to the target in every scan."""
    return _effect(case, interventions.knockout(case.model, case.readout, case.positions, **case.inputs))


def occluded(case: Case) -> Scored:
    """Drop of the readout without one token's embedding."""
    return _effect(case, occlusion.occlusion(case.model, case.readout, **case.inputs))


def drawn(case: Case) -> Scored:
    """Numbers drawn at random for the sources that the positions see."""
    scores = random_scores(case.trace.shape[1])
    scores[:, case.trace.operator(0).seen(max(case.positions)).stop :] = 0
    return Scored(scores)


def _effect(case: Case, effect: interventions.Effect) -> Scored:
    return Scored(at_positions(case.trace, effect.scores[None]), {"value": effect.value})


def _gradients(case: Case, found: gradients.GradientScores) -> Scored:
    return Scored(at_positions(case.trace, found.scores), {"value": float(found.value[0])} | found.evidence)
