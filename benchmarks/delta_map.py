"""The map of a gated delta net against its recurrence, beside the usual heuristic; time and memory.

    python -m benchmarks.delta_map [--lengths 128 512 1024] [--heads 8] [--state 64] [--threads N] [--repeats 3]

One Qwen3-Next layer with random weights reads random tokens. Every map M of its heads is held to the recurrence, which
runs token by token in float64: the error is ‖M v - o‖ / ‖o‖ over all targets and heads, v the values that the layer's
own convolution gives. The heuristic leaves out that a key removes what it held: M ≈ (tril(Q Kᵀ) ∘ Γ) diag(β). How wrong
that is depends on how long a state lives, so there are three kinds of weights: as the class initialises them, with
decays so fast that there is little to remove; every weight from N(0, 0.4); and the same with slow decays, A = e⁻⁴, as
heads that remember have them.

For scale: the same product without a map (`apply`), one row of it, the head-wise matrices of a Mamba-2 scan with as
many heads and as large a state, and what the least operations of either, L²/2 products of inner size N per head, would
take at the rate of a large float32 matrix product of the same run. Memory is the growth of the process.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
import transformers
from einops import rearrange

import mambascope
from mambascope.bench.measuring import measured, product_rate
from mambascope.operators.blocks import split
from mambascope.operators.gated_delta import GatedDeltaRule
from mambascope.operators.state_space_dual import StateSpaceDual

#: What the weights are.
WEIGHTS = {"initial": "as initialised", "normal": "N(0, 0.4)", "slow": "N(0, 0.4), slow decays"}

#: Targets and sources of one tile, as hidden attention takes them.
TILE = 64


def layer(heads: int, state: int, length: int, weights: str) -> tuple[Any, torch.Tensor]:
    """Return the operator of one random layer and what enters its rule."""
    torch.manual_seed(0)
    config = transformers.Qwen3NextConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=64,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        linear_num_key_heads=max(1, heads // 2),
        linear_num_value_heads=heads,
        linear_key_head_dim=state,
        linear_value_head_dim=state,
        num_experts=0,
        pad_token_id=0,
    )
    model = transformers.Qwen3NextForCausalLM(config).eval()
    if weights != "initial":
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.normal_(1 if name.endswith("linear_attn.norm.weight") else 0, 0.4)
            if weights == "slow":
                model.model.layers[0].linear_attn.A_log.fill_(-4)
    trace = mambascope.capture(model, input_ids=torch.randint(512, (1, length)))
    operator = trace.operator(0)
    return operator, operator.slope * operator.preactivation


def recurrence(rule: GatedDeltaRule, v: torch.Tensor) -> torch.Tensor:
    """Return o from the rule as its paper writes it, token by token, in float64."""
    share = rule.maps // rule.k.shape[2]
    q, k = (part.double().repeat_interleave(share, dim=2) for part in (rule.q, rule.k))
    beta, decay = rule.beta.double()[..., None], rule.decay.double().exp()
    values = rearrange(v.double(), "b L (h p) -> b L h p", h=rule.maps)
    state, outputs = values.new_zeros(*k[:, 0].shape, values.shape[-1]), []
    for t in range(rule.length):
        state = decay[:, t, ..., None] * state
        held = torch.einsum("bhn,bhnp->bhp", k[:, t], state)
        state = state + k[:, t, ..., None] * (beta[:, t] * (values[:, t] - held))[..., None, :]
        outputs.append(torch.einsum("bhn,bhnp->bhp", q[:, t], state))
    return torch.stack(outputs, dim=1)


def tiled(scan: GatedDeltaRule | StateSpaceDual) -> torch.Tensor:
    """Return the matrices of all heads, tile by tile."""
    maps = scan.skip.new_zeros(1, scan.maps, scan.length, scan.length)
    for coarse in scan.blocks():
        for block in split(coarse, TILE, TILE):
            maps[:, :, block.rows, block.columns] = scan.tile(block.rows, block.columns)
    return maps


def heuristic(rule: GatedDeltaRule) -> torch.Tensor:
    """Return (tril(Q Kᵀ) ∘ Γ) diag(β): every source keeps what it wrote, but for the decay."""
    share = rule.maps // rule.k.shape[2]
    q, k = (part.repeat_interleave(share, dim=2).transpose(1, 2) for part in (rule.q, rule.k))
    fall = rule.decay[..., 0].transpose(1, 2).double().cumsum(dim=-1)
    future = torch.ones(rule.length, rule.length, dtype=torch.bool).triu(1)
    decay = (fall[..., :, None] - fall[..., None, :]).masked_fill(future, -torch.inf).float().exp()
    return (q @ k.transpose(-1, -2)) * decay * rule.beta.transpose(1, 2)[:, :, None]


def same_size(rule: GatedDeltaRule) -> StateSpaceDual:
    """Return a Mamba-2 scan with as many heads, groups and states, its coefficients those of the rule."""
    decays = rule.decay[..., 0].neg()
    return StateSpaceDual(decays, -torch.ones(rule.maps), rule.k, rule.q, torch.zeros_like(rule.skip))


def fresh(rule: GatedDeltaRule) -> GatedDeltaRule:
    """Return the rule with nothing worked out yet."""
    return GatedDeltaRule(rule.q, rule.k, rule.beta, rule.decay, rule.skip)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 1024])
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--state", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    print(f"Qwen3-Next, one layer: H={options.heads} value heads, N={options.state}, P={options.state}")
    print(f"{'L':>6}  {'weights':24} {'exact':>9} {'heuristic':>9}   error against the recurrence")
    for length in options.lengths:
        for name, words in WEIGHTS.items():
            operator, v = layer(options.heads, options.state, length, name)
            o, values = recurrence(operator.scan, v), rearrange(v, "b L (h p) -> b h L p", h=options.heads)
            maps = (tiled(operator.scan), heuristic(operator.scan))
            exact, rough = (float((rearrange(M @ values, "b h L p -> b L h p") - o).norm() / o.norm()) for M in maps)
            print(f"{length:6}  {words:24} {exact:9.1e} {rough:9.1e}", flush=True)
    print(f"{'L':>6}  {'map, weights from N(0, 0.4)':34} {'error':>9} {'seconds':>9} {'× floor':>8} {'growth':>9}")
    for length in options.lengths:
        operator, v = layer(options.heads, options.state, length, "normal")
        rule = operator.scan
        o = recurrence(rule, v)
        floor = length * (length + 1) * options.state * options.heads / product_rate("cpu")
        values = rearrange(v, "b L (h p) -> b h L p", h=rule.maps)

        def error(found: torch.Tensor, o: torch.Tensor = o, values: torch.Tensor = values) -> float:
            mixed = found if found.ndim == 3 else rearrange(found @ values, "b h L p -> b L (h p)")
            return float((mixed.double() - o.flatten(2)).norm() / o.norm())

        def report(
            name: str, call: Callable[[], torch.Tensor], checks: bool, length: int = length, floor: float = floor
        ) -> None:
            runs = [measured(call) for _ in range(options.repeats)]
            seconds, growth = statistics.median(run[1] for run in runs), max(run[2] for run in runs)
            off = f"{error(runs[0][0]):9.1e}" if checks else " " * 9
            times = f"{seconds / floor:7.1f}×"
            print(f"{length:6}  {name:34} {off} {seconds:9.4f} {times} {growth / 2**20:5.0f} MiB", flush=True)

        report("exact, every head's matrix", lambda rule=rule: tiled(fresh(rule)), True)
        report("heuristic, without key removal", lambda rule=rule: heuristic(rule), True)
        report("exact, o without a matrix", lambda rule=rule, v=v: fresh(rule).apply(v), True)
        last = slice(length - 1, length)
        report("exact, one row", lambda rule=rule, last=last: fresh(rule).tile(last, slice(0, last.stop)), False)
        report("Mamba-2 of that size, every head", lambda rule=rule: tiled(same_size(rule)), False)


if __name__ == "__main__":
    main()
