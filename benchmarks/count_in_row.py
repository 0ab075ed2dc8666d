"""Learning to count in row: one S6 channel, one attention head with and without softmax, one gated delta head.

    python -m benchmarks.count_in_row [--out docs/count_in_row.png] [--seeds 8] [--steps 1500]

The task: how long the run of ones is that ends at each position (`mambascope.theory.count_in_row`). Every model is one
channel or head of the package's operators between the same two ends. Inputs: bits. What a layer reads of a bit is a
learned table, so Δ, B, C, q, k, v, β and the decay are any functions of the token. Readout: y = a o + r(x), a learned
multiple of the layer's one output number plus a learned number per token; the nearest whole number is the answer. State
or key width: 8. The attention heads come twice: without positions, and with rotary ones in q and k.

Training: the same strings for all models of a seed, 32 bits long, 16 a step; Adam, learning rate 0.05 falling to 0 by a
cosine; smooth L1 loss of y at all positions. Runs of ones have lengths drawn log-uniformly from 1 to the string's
length, runs of zeros from 1 to 8. Tested on 16,384 bits of strings of each length, made in the same way. It prints the
share of positions answered right by length, its mean over seeds with a 95 % bootstrap interval, and draws it, with what
is answered for each count. The models of all seeds run side by side, as one batch; each has its own weights and
strings.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from matplotlib.figure import Figure
from torch import Tensor, nn

from mambascope.evaluate.bootstrap import Interval, mean_interval
from mambascope.files import whole_file
from mambascope.operators.decayed_attention import DecayedAttention
from mambascope.operators.gated_delta import GatedDeltaRule
from mambascope.operators.selective_scan import SelectiveScan
from mambascope.operators.softmax_attention import SoftmaxAttention
from mambascope.theory.count_in_row import exact_channel, run_lengths

N = 8
TRAINED, BATCH = 32, 16
LENGTHS = (4, 8, 16, 32, 64, 128, 256, 512)
#: How many positions are tested at each length, and how many strings of them at once.
TESTED, AT_ONCE = 16384, 8
COUNTS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
NO_SKIP = torch.zeros(1)

#: Beside the trained models: the channel whose weights are written down, and what answering 0 at zeros alone gets.
WRITTEN, ZEROS = "S6 channel, written down", "zeros only"

Draw = Sequence[torch.Generator]


def table(draw: Draw, width: int) -> nn.Parameter:
    """Return, for every seed, what a layer reads of each of the two tokens, (seeds, 2, width)."""
    return nn.Parameter(torch.stack([torch.randn(2, width, generator=one) for one in draw]) / math.sqrt(2))


def read(table: Tensor, bits: Tensor) -> Tensor:
    """Return a table's rows for bits of shape (seeds · strings, L)."""
    seed = torch.arange(len(table)).repeat_interleave(len(bits) // len(table))
    return table[seed[:, None], bits]


class S6Channel(nn.Module):
    """One channel of a selective scan, initialised as Mamba's are."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.s, self.dt, self.B, self.C = (table(draw, width) for width in (1, 1, N, N))
        step = torch.stack([torch.rand(1, 1, generator=one) for one in draw]).mul(math.log(100)).add(math.log(1e-3))
        self.bias = nn.Parameter(step.exp() + torch.log(-torch.expm1(-step.exp())))  # Δ from 0.001 to 0.1
        self.A_log = nn.Parameter(torch.arange(1.0, N + 1).log().repeat(len(draw), 1))

    def forward(self, bits: Tensor) -> Tensor:
        """The scan has every seed's states side by side; a string writes to and reads from those of its own seed."""
        own = torch.eye(len(self.s)).repeat_interleave(len(bits) // len(self.s), dim=0)
        B, C = (torch.einsum("bln,bs->blsn", read(part, bits), own).flatten(2) for part in (self.B, self.C))
        dt = F.softplus(read(self.dt + self.bias, bits))
        return SelectiveScan(dt, -self.A_log.exp().view(1, -1), B, C, NO_SKIP).apply(read(self.s, bits))


class Head(nn.Module):
    """One attention head, without a softmax or with one; with rotary positions in q and k if asked for."""

    def __init__(self, draw: Draw, softmax: bool, rotary: bool) -> None:
        super().__init__()
        self.softmax, self.rotary = softmax, rotary
        self.q, self.k, self.v = (table(draw, width) for width in (N, N, 1))

    def forward(self, bits: Tensor) -> Tensor:
        q, k = (self._placed(read(part, bits)) for part in (self.q, self.k))
        v = read(self.v, bits)
        if self.softmax:
            future = torch.ones(bits.shape[1], bits.shape[1]).triu(1) > 0
            scores = (q @ k.transpose(1, 2) / math.sqrt(N)).masked_fill(future, -torch.inf)
            return SoftmaxAttention(scores.softmax(dim=-1)[:, None], NO_SKIP).apply(v)
        return DecayedAttention(torch.zeros_like(v), k[:, :, None], q[:, :, None], NO_SKIP).apply(v)

    def _placed(self, part: Tensor) -> Tensor:
        """Return q or k, each pair of numbers turned by an angle that grows with the position."""
        if not self.rotary:
            return part
        angles = torch.arange(part.shape[1])[:, None] * 10000 ** (-torch.arange(N // 2) * 2 / N)
        turned = torch.view_as_complex(rearrange(part, "b l (n c) -> b l n c", c=2).contiguous()) * torch.polar(
            torch.ones_like(angles), angles
        )
        return torch.view_as_real(turned).flatten(2)


class DeltaHead(nn.Module):
    """One head of a gated delta net, its keys and queries normalised, initialised as Qwen3-Next's are."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.q, self.k, self.v, self.b, self.a = (table(draw, width) for width in (N, N, 1, 1, 1))
        self.A_log = nn.Parameter(torch.stack([torch.rand(1, 1, generator=one) for one in draw]).mul(16).log())
        self.bias = nn.Parameter(torch.ones(len(draw), 1, 1))

    def forward(self, bits: Tensor) -> Tensor:
        q, k = (read(F.normalize(part, dim=-1), bits)[:, :, None] for part in (self.q, self.k))
        decay = -self.A_log.exp() * F.softplus(self.a + self.bias)
        beta = read(self.b, bits).sigmoid()
        return GatedDeltaRule(q / math.sqrt(N), k, beta, read(decay, bits)[..., None], NO_SKIP).apply(
            read(self.v, bits)
        )


class Model(nn.Module):
    """A layer with the readout that all have, once for every seed."""

    def __init__(self, layer: Callable[[Draw], nn.Module], seeds: int) -> None:
        super().__init__()
        self.layer = layer([torch.Generator().manual_seed(seed) for seed in range(seeds)])
        self.a, self.r = nn.Parameter(torch.ones(seeds, 1, 1)), nn.Parameter(torch.zeros(seeds, 2, 1))

    def forward(self, bits: Tensor) -> Tensor:
        """Return y for bits of shape (seeds, strings, L)."""
        flat = bits.flatten(0, 1)
        return self.a * self.layer(flat).view(bits.shape) + read(self.r, flat).view(bits.shape)


LAYERS: dict[str, Callable[[Draw], nn.Module]] = {
    "S6 channel": S6Channel,
    "gated delta head": DeltaHead,
    "softmax head": lambda draw: Head(draw, softmax=True, rotary=False),
    "softmax head, rotary": lambda draw: Head(draw, softmax=True, rotary=True),
    "linear attention head": lambda draw: Head(draw, softmax=False, rotary=False),
    "linear attention head, rotary": lambda draw: Head(draw, softmax=False, rotary=True),
}


def strings(count: int, length: int, generator: torch.Generator) -> Tensor:
    """Return binary strings of alternating runs, beginning with either kind."""
    sizes = torch.rand(count, length + 2, generator=generator)
    first = torch.randint(2, (count, 1), generator=generator)
    ones = (torch.arange(length + 2) + first) % 2 == 1
    longest = torch.where(ones, float(length), 8.0)
    ends = (longest + 1).pow(sizes).floor().cumsum(dim=1)
    run = torch.searchsorted(ends, torch.arange(length).float().expand(count, -1).contiguous(), right=True)
    return ones.gather(1, run).long()


def trained(layer: Callable[[Draw], nn.Module], seeds: int, steps: int) -> Model:
    """Return models of a kind of layer, one per seed, each trained on its seed's strings."""
    model, draw = Model(layer, seeds), [torch.Generator().manual_seed(1000 + seed) for seed in range(seeds)]
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        bits = torch.stack([strings(BATCH, TRAINED, one) for one in draw])
        counts = run_lengths(bits.flatten(0, 1)).view(bits.shape).float()
        loss = F.smooth_l1_loss(model(bits), counts) * seeds  # the sum of the seeds' losses, which share no weight
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model


def zeros_only(bits: Tensor) -> Tensor:
    """Return 0 at zeros, and what is never right at ones."""
    return -bits[None].float()


@torch.no_grad()
def accuracy(answer: Callable[[Tensor], Tensor], length: int) -> list[float]:
    """Return every seed's share of positions answered right, over test strings of a length."""
    bits = strings(TESTED // length, length, torch.Generator().manual_seed(length))
    right = [answer(part).round() == run_lengths(part) for part in bits.split(max(AT_ONCE, 1024 // length))]
    return torch.cat(right, dim=1).float().mean(dim=(1, 2)).tolist()


@torch.no_grad()
def answers(answer: Callable[[Tensor], Tensor]) -> Tensor:
    """Return what is answered at some counts after 31 bits of a test string and a zero: the median, (seeds, counts)."""
    before = strings(AT_ONCE, TRAINED, torch.Generator().manual_seed(0))
    before[:, -1] = 0
    bits = torch.cat([before, torch.ones(AT_ONCE, COUNTS[-1], dtype=torch.long)], dim=1)
    return answer(bits)[..., [TRAINED - 1 + n for n in COUNTS]].median(dim=1).values


def tables(right: dict[str, dict[int, Interval]], said: dict[str, Tensor]) -> str:
    """Return the shares right by length, and the answers by count (the mean over seeds), as Markdown tables."""
    lines = ["| share right at length | " + " | ".join(map(str, LENGTHS)) + " |", "| --- " * (len(LENGTHS) + 1) + "|"]
    for name, shares in right.items():
        cells = [_cell(shares[length]) for length in LENGTHS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| answer at count | " + " | ".join(map(str, COUNTS)) + " |", "| --- " * (len(COUNTS) + 1) + "|"]
    for name, values in said.items():
        lines.append(f"| {name} | " + " | ".join(f"{value:.1f}" for value in values.mean(dim=0).tolist()) + " |")
    return "\n".join(lines)


def _cell(share: Interval) -> str:
    return f"{share.value:.2f}" + (f" ({share.low:.2f}-{share.high:.2f})" if share.count > 1 else "")


def figure(right: dict[str, dict[int, Interval]], said: dict[str, Tensor]) -> Figure:
    """Return the shares right by length with their intervals, and the answers by count, of every seed."""
    drawn, (left, beside) = plt.subplots(1, 2, figsize=(12, 4.6))
    for number, (name, shares) in enumerate(right.items()):
        known = name in (WRITTEN, ZEROS)
        style = {"color": "0.35" if known else f"C{number}", "linestyle": {WRITTEN: ":", ZEROS: "-."}.get(name, "-")}
        if name.endswith("rotary"):
            style |= {"color": f"C{number - 1}", "linestyle": "--"}
        left.plot(LENGTHS, [shares[length].value for length in LENGTHS], label=name, marker="o", markersize=3, **style)
        if not known:
            ends = ([getattr(shares[length], end) for length in LENGTHS] for end in ("low", "high"))
            left.fill_between(LENGTHS, *ends, color=style["color"], alpha=0.2, linewidth=0)
        for seed in said.get(name, torch.empty(0)):
            beside.plot(COUNTS, seed.clamp(min=0.3), linewidth=0.9, **style)
    left.axvline(TRAINED, color="0.7", linewidth=1)
    left.text(TRAINED, 0.01, " trained up to here", color="0.4", fontsize=8)
    left.set(xscale="log", xlabel="length of the string", ylabel="share of positions answered right", ylim=(0, 1.03))
    beside.axvline(TRAINED, color="0.7", linewidth=1)
    beside.set(xscale="log", yscale="log", xlabel="length of the run of ones so far", ylabel="answer")
    for axis, ticks in ((left, LENGTHS), (beside, [count for count in COUNTS if count & (count - 1) == 0])):
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
    beside.set_yticks(
        [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256], ["0.5", "1", "2", "4", "8", "16", "32", "64", "128", "256"]
    )
    drawn.legend(*left.get_legend_handles_labels(), loc="lower center", ncols=4, fontsize=9, frameon=False)
    drawn.tight_layout(rect=(0, 0.11, 1, 1))
    return drawn


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/count_in_row.png"))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    right: dict[str, dict[int, Interval]] = {}
    said: dict[str, Tensor] = {}
    for name, layer in LAYERS.items():
        started = time.perf_counter()
        model = trained(layer, options.seeds, options.steps)

        def answer(bits: Tensor, model: Model = model) -> Tensor:
            return model(repeat(bits, "b l -> s b l", s=options.seeds))

        right[name] = {length: mean_interval(accuracy(answer, length)) for length in LENGTHS}
        said[name] = answers(answer)
        weights = sum(part.numel() for part in model.parameters()) // options.seeds
        print(f"{name}: {weights} weights, {time.perf_counter() - started:.0f} s", flush=True)
    for name, answer in {
        WRITTEN: lambda bits: exact_channel(torch.float32).count(bits)[None],
        ZEROS: zeros_only,
    }.items():
        right[name] = {length: mean_interval(accuracy(answer, length)) for length in LENGTHS}
    print(f"\n{tables(right, said)}")
    with whole_file(options.out) as partial:
        figure(right, said).savefig(partial, dpi=150)
    print(f"\nwritten {options.out}")


if __name__ == "__main__":
    main()
