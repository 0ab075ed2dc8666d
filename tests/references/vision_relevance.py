"""Relevance of pictures by dense matrices."""

import torch

from mambascope import readouts
from vision_reference import embed, place_of_class, run


def readout_of(query):
    return {"class": readouts.class_(3), "contrast": readouts.class_(3, 1), "patch": readouts.features(2)}[query]


def dense_value(model, query, reference):
    """The number that a query asks for, and by whom its tokens are read."""
    if query == "patch":
        here = reference.features[2]
        return here @ (here / here.norm()).detach(), [2]
    place = place_of_class(model, len(reference.tokens) - 1)
    asked = range(len(reference.tokens)) if place is None else [place]
    lead = reference.logits[1] if query == "contrast" else 0.0
    return reference.logits[3] - lead, list(asked)


def dense_relevance(model, picture, query, frozen, gamma, pixels):
    """Relevance of tokens (L,) or pixels (H, W) by autograd through the dense graph, and the number itself."""
    with torch.enable_grad():
        leaf = picture.clone().requires_grad_() if pixels else embed(model, picture).detach().requires_grad_()
        tokens = embed(model, leaf, gamma) if pixels else leaf
        value, _ = dense_value(model, query, run(model, tokens, frozen, gamma))
        (gradient,) = torch.autograd.grad(value, leaf)
    return (leaf * gradient).sum(dim=0 if pixels else 1).detach(), value.detach()
