"""Does relevance add up to the logit? With each of MambaLRP's rules left out in turn, on held-out novels.

    python -m benchmarks.conservation [--data ../shared/data] [--passages 200] [--tokens 64] [--out FILE.png]

For passages of novels that the bundled models never saw, the logit f of the token predicted next is explained. The
first table reports |f - Σ R| / |f|, median and 95th percentile: for the tokens' relevance with every bias zero in a
copy of the model, and with the model's own biases, which hold the rest; and for tokens and biases together. The second
does the same for texts of other lengths. The figure is the first case: Σ R over f, on the diagonal where it is
conserved.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from matplotlib.figure import Figure
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

import mambascope
from mambascope.files import whole_file
from mambascope.methods.mamba_lrp import LRP, mamba_lrp
from mambascope.trace import capture
from mambascope.trace.rules import GRADIENT, PropagationRules
from training.language.corpus import data_folder, read_novels, split_novels

RULE_SETS = {
    "all rules": LRP,
    "SiLU rule off": PropagationRules(silu=False, scan=True, gate=True, norm=True),
    "scan rule off": PropagationRules(silu=True, scan=False, gate=True, norm=True),
    "gate rule off": PropagationRules(silu=True, scan=True, gate=False, norm=True),
    "norm rule off": PropagationRules(silu=True, scan=True, gate=True, norm=False),
    "gradient × input": GRADIENT,
}
MODELS = {
    "tiny-mamba": {"marker": "o", "facecolors": "#1a1a1a", "edgecolors": "none"},
    "tiny-mamba2": {"marker": "^", "facecolors": "none", "edgecolors": "#7a7a7a"},
}
BATCH = 25
LENGTHS = (64, 512, 2048, 4096)


def passages(texts: list[str], tokenizer: Any, count: int, tokens: int, seed: int = 0) -> Tensor:
    """Return (count, tokens) token ids from random places in the novels, the same number from each."""
    draw = np.random.default_rng(seed)
    encoded = [tokenizer(text, return_tensors="np")["input_ids"][0] for text in texts]
    rows = []
    for number in range(count):
        novel = encoded[number % len(encoded)]
        start = int(draw.integers(len(novel) - tokens))
        rows.append(torch.from_numpy(novel[start : start + tokens].astype(np.int64)))
    return torch.stack(rows)


def without_biases(model: nn.Module) -> nn.Module:
    """Return a copy with zero biases, except that of the step Δ, which is part of a coefficient."""
    model = copy.deepcopy(model)
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear | nn.Conv1d) and part.bias is not None and not name.endswith("dt_proj"):
            nn.init.zeros_(part.bias)
    return model


def predicted(outputs: Any) -> Tensor:
    """Return the largest logit after each text's last token."""
    return outputs.logits[:, -1].max(dim=-1).values


def measure(model: nn.Module, ids: Tensor, rules: PropagationRules) -> tuple[Tensor, Tensor, Tensor]:
    """Return (logit, sum of the tokens' relevance, sum of the biases') of every passage, in float64."""
    found = [mamba_lrp(capture(model, input_ids=rows), predicted, rules=rules) for rows in ids.split(BATCH)]
    terms = [one.terms for one in found]
    parts = ([one.value.double() for one in found], [t["tokens"] for t in terms], [t["biases"] for t in terms])
    f, tokens, biases = map(torch.cat, parts)
    return f, tokens, biases


def spread(error: Tensor) -> list[str]:
    """Return the median and the 95th percentile."""
    return [f"{float(error.median()):.1e}", f"{float(error.quantile(0.95)):.1e}"]


def lengths(model: nn.Module, name: str, tokenizer: Any, texts: list[str], count: int) -> None:
    """Print how much of the logit tokens and biases hold after texts of several lengths."""
    for tokens in LENGTHS:
        rows = passages(texts, tokenizer, count, tokens).split(1)
        found = [measure(model, row, LRP) for row in rows]
        f, of_tokens, of_biases = (torch.cat(part) for part in zip(*found, strict=True))
        share = (of_tokens / f).median()
        error = (f - of_tokens - of_biases).abs() / f.abs()
        print(f"| {name} | {tokens} | {float(share):.1%} | {' | '.join(spread(error))} |", flush=True)


def draw(results: dict[tuple[str, str], tuple[Tensor, Tensor]], path: Path) -> None:
    """Write one panel per rule set, a paper's column wide; a panel whose sums go far beyond the logits says so."""
    figure = Figure(figsize=(3.4, 2.75), dpi=300, layout="constrained")
    panels = figure.subplots(2, 3, sharex=True)
    reach = max(float(f.max()) for f, _ in results.values())
    for panel, name in zip(panels.flat, RULE_SETS, strict=True):
        panel.axline((0, 0), slope=1, color="#555555", linewidth=0.6, linestyle="--", zorder=3)
        lowest = highest = 0.0
        for model, style in MODELS.items():
            if (model, name) in results:
                f, total = results[model, name]
                panel.scatter(f, total, s=3, linewidths=0.35, label=model, zorder=2, **style)
                lowest, highest = min(lowest, float(total.min())), max(highest, float(total.max()))
        far = highest > 2 * reach
        panel.set_title(f"{name} (own scale)" if far else name, fontsize=6, pad=2)
        panel.tick_params(labelsize=5.5, length=2, width=0.5, pad=1.5)
        top = (1.05 * highest) if far else 1.7 * reach
        panel.set(xlim=(0, 1.05 * reach), ylim=(min(-0.06 * top, 1.3 * lowest), top))
        for spine in panel.spines.values():
            spine.set_linewidth(0.5)
    figure.supxlabel("logit f of the predicted token", fontsize=7)
    figure.supylabel("sum of relevance ΣR", fontsize=7)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=6.5, frameon=False, markerscale=1.8)
    with whole_file(path) as partial:
        figure.savefig(partial, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--data", type=Path, help="the data folder (MAMBASCOPE_DATA), or a folder of .txt files")
    parser.add_argument("--passages", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--texts", type=int, default=20, help="texts of each length in the second table")
    parser.add_argument("--out", type=Path, help="draw the plot of the models without biases into this file")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    _, held_out = split_novels(read_novels(data_folder(options.data)))
    print(f"{options.passages} passages of {options.tokens} tokens, float32; |f - ΣR| / |f|\n")
    print("| model | rules | zero biases: median | 95 % | own biases: median | 95 % | with the biases' part | 95 % |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    drawn, loaded = {}, {name: mambascope.load(name) for name in options.models}
    for name, (model, tokenizer) in loaded.items():
        ids = passages(list(held_out.values()), tokenizer, options.passages, options.tokens)
        bare = without_biases(model)
        for label, rules in RULE_SETS.items():
            f, tokens, _ = measure(bare, ids, rules)
            drawn[name, label] = f, tokens
            cells = spread((f - tokens).abs() / f.abs())
            f, tokens, biases = measure(model, ids, rules)
            cells += spread((f - tokens).abs() / f.abs()) + spread((f - tokens - biases).abs() / f.abs())
            print(f"| {name} | {label} | {' | '.join(cells)} |", flush=True)
    print(
        f"\n{options.texts} texts of each length, all rules, own biases; the last two columns with the biases' part\n"
    )
    print(
        "| model | tokens in the text | the tokens' share of the logit, median | |f - ΣR - Σb| / |f|: median | 95 % |"
    )
    print("| --- | --- | --- | --- | --- |")
    for name, (model, tokenizer) in loaded.items():
        lengths(model, name, tokenizer, list(held_out.values()), options.texts)
    if options.out:
        draw(drawn, options.out)


if __name__ == "__main__":
    main()
