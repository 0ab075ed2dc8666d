"""Propagation rules for functions that take statistics of many numbers: norms, softmax, sums of exponentials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mambascope.trace.elementary import Elementary, Function, live


def statistic(mode: Elementary, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return a statistic, constant."""
    output = function(*args, **kwargs)
    if not mode.rules.norm or not isinstance(output, Tensor):
        return output
    return output.detach()


def weight(mode: Elementary, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what weighs tokens, constant."""
    output = function(*args, **kwargs)
    return output.detach() if mode.rules.scan and isinstance(output, Tensor) else output


def softmax(mode: Elementary, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return probabilities; those of attention are constant, or hand on what their derivative takes."""
    rules = mode.rules
    if rules.softmax if mode.attending else rules.scan:
        return function(*args, **kwargs).detach()
    if not (mode.attending and args and live(args[0]) and rules.conserve) or mode.ledger is None:
        return function(*args, **kwargs)
    scores = args[0].view_as(args[0])
    output = function(scores, *args[1:], **kwargs)
    mode.ledger.note_difference("softmax", output, scores, hands_on=False)
    return output


def attention(mode: Elementary, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return attention that is computed in one call, with queries and keys constant."""
    if not mode.rules.softmax or len(args) < 3:
        return function(*args, **kwargs)
    return function(args[0].detach(), args[1].detach(), *args[2:], **kwargs)


def layer_norm(mode: Elementary, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return a LayerNorm's output with its deviation constant; note its bias."""
    given = dict(zip(("input", "normalized_shape", "weight", "bias", "eps"), args, strict=False)) | kwargs
    x, bias = given["input"], given.get("bias")
    if live(x) and mode.rules.norm:
        output = frozen_layer_norm(x, given["normalized_shape"], given.get("weight"), bias, given.get("eps", 1e-5))
    else:
        output = function(*args, **kwargs)
    if output.requires_grad and bias is not None:
        mode.note(bias, output)
    return output


def frozen_layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Return a LayerNorm over the last axes, as many as `shape` has, with its standard deviation frozen."""
    axes = tuple(range(-len(shape), 0))
    centred = x - x.mean(dim=axes, keepdim=True)
    normed = centred * torch.rsqrt(centred.detach().pow(2).mean(dim=axes, keepdim=True) + eps)
    normed = normed if weight is None else normed * weight
    return normed if bias is None else normed + bias


def group_norm(mode: Elementary, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return a GroupNorm's output with its deviation constant; note its bias."""
    given = dict(zip(("input", "num_groups", "weight", "bias", "eps"), args, strict=False)) | kwargs
    x, weight, bias = given["input"], given.get("weight"), given.get("bias")
    if not live(x) or not mode.rules.norm:
        output = function(*args, **kwargs)
    else:
        groups = x.reshape(len(x), given["num_groups"], -1)
        normed = frozen_layer_norm(groups, groups.shape[-1:], None, None, given.get("eps", 1e-5)).view_as(x)
        along = (1, -1, *[1] * (x.ndim - 2))
        normed = normed if weight is None else normed * weight.view(along)
        output = normed if bias is None else normed + bias.view(along)
    if output.requires_grad and bias is not None:
        mode.note(bias, output, axis=1)
    return output


def rms_norm(mode: Elementary, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return an RMS norm's output with its statistic constant."""
    given = dict(zip(("input", "normalized_shape", "weight", "eps"), args, strict=False)) | kwargs
    x, weight, eps = given["input"], given.get("weight"), given.get("eps")
    if not live(x) or not mode.rules.norm:
        return function(*args, **kwargs)
    axes = tuple(range(-len(given["normalized_shape"]), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    normed = x * torch.rsqrt(x.detach().pow(2).mean(dim=axes, keepdim=True) + eps)
    return normed if weight is None else normed * weight


def unit(mode: Elementary, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return vectors of length one, the lengths constant."""
    given = {"p": 2.0, "dim": 1, "eps": 1e-12} | dict(zip(("input", "p", "dim", "eps"), args, strict=False)) | kwargs
    x = given["input"]
    if not live(x) or not mode.rules.norm:
        return function(*args, **kwargs)
    return x / x.detach().norm(given["p"], given["dim"], keepdim=True).clamp_min(given["eps"])


def batch_norm(mode: Elementary, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return a batch norm at fixed statistics, an affine map; note what it adds."""
    output = function(*args, **kwargs)
    if output.requires_grad and mode.ledger is not None:
        x, *others = args
        with torch.no_grad():
            constant = function(torch.zeros_like(x[:1]), *others, **kwargs)
        given = dict(zip(("mean", "var", "weight", "bias"), others, strict=False)) | kwargs
        mode.ledger.note_added(mode.ledger.name_of(given.get("bias")) or "batch norm", constant, output)
    return output
