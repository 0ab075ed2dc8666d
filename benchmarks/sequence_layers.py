"""The docs page "One picture of sequence layers": how they mix, what they can express, what they remember.

    python -m benchmarks.sequence_layers [--out docs/sequence_layers.md] [--width 8] [--length 32]

Figures in it are drawn by commands of their own, which the page names.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.expressiveness import matrices_table
from mambascope.cli.classifying import change
from mambascope.files import write_whole
from mambascope.theory.classification import Classification
from mambascope.theory.theorem import THEOREM, measured_layers

PAPERS = {
    "S4": "[2111.00396](https://arxiv.org/abs/2111.00396)",
    "S4D": "[2206.11893](https://arxiv.org/abs/2206.11893)",
    "DSS": "[2203.14343](https://arxiv.org/abs/2203.14343)",
    "S5": "[2208.04933](https://arxiv.org/abs/2208.04933)",
    "GSS": "[2206.13947](https://arxiv.org/abs/2206.13947)",
    "Hyena": "[2302.10866](https://arxiv.org/abs/2302.10866)",
    "LinearAttention": "[2006.16236](https://arxiv.org/abs/2006.16236)",
    "RetNet": "[2307.08621](https://arxiv.org/abs/2307.08621)",
    "GLA": "[2312.06635](https://arxiv.org/abs/2312.06635)",
    "HGRN2": "[2404.07904](https://arxiv.org/abs/2404.07904)",
    "RWKV4": "[2305.13048](https://arxiv.org/abs/2305.13048)",
    "RWKV6": "[2404.05892](https://arxiv.org/abs/2404.05892)",
    "RWKV7": "[2503.14456](https://arxiv.org/abs/2503.14456)",
    "SelectiveSSM": "[2312.00752](https://arxiv.org/abs/2312.00752)",
    "SSD": "[2405.21060](https://arxiv.org/abs/2405.21060)",
    "RG-LRU": "[2402.19427](https://arxiv.org/abs/2402.19427)",
    "mLSTM": "[2405.04517](https://arxiv.org/abs/2405.04517)",
    "Lightning": "[2401.04658](https://arxiv.org/abs/2401.04658)",
    "GatedDelta": "[2412.06464](https://arxiv.org/abs/2412.06464)",
    "SoftmaxHead": "[1706.03762](https://arxiv.org/abs/1706.03762)",
}

PAGE = """# One picture of sequence layers

The table is made by `make layers`; do not edit it here but in `benchmarks/sequence_layers.py`.

A sequence layer mixes tokens: y_i = Σ_j α_ij v_j. Theorem 1 of the Hidden Attention paper
([2403.01590](https://arxiv.org/abs/2403.01590)) sorts layers by what α depends on.

* **Fixed**: α is the same whatever the text says. Such a layer is one long convolution.
* **Fixed, with diagonal data control**: α_ij = g_i h_ij w_j. The tokens at both ends turn a fixed kernel up and down.
* **Data-controlled**: everything else. Tokens between i and j, or both ends together, decide how much passes.

`mambascope classify --all` measures it. The input is changed in parts, and one looks at what of α changes: nothing,
only what is near i and j, as a product of two factors, or more. The first sixteen are reference layers of ours
(`mambascope.models.layers`), a few lines each, width {width}, {length} tokens, float64, random weights; the last six
are mixers of stock classes in float32. The same can be asked of any module, and of the layers of a model within it:
`mambascope classify tiny-hybrid`, or `mambascope.classify(layer)` in Python.

{table}

*Input*: the largest relative change of α_ij with another input. *Scale*: with the input doubled. *Far*: with other
tokens at a distance from both i and j. *Product*: by how much α_ij misses being a factor of i times a factor of j.
*Lag*: by how much it misses depending on i - j alone; 0 means a Toeplitz matrix. *Rank*: of what the first half of the
text gives to the second, over the maps: the state that is used. *Decay*: the factor by which |α| falls per token, over
the maps. Changes below 1e-12 are rounding and written as 0.

Three rows are worth a look. With one number of state (RG-LRU), α_ij *is* a product, of cumulative decays; that it
depends on the tokens in between tells it from a gated convolution. Linear attention with a fixed decay (RetNet,
Lightning) does not depend on what lies in between, but q_i · k_j is no product of a factor of i and one of j.

## What one channel can express

*Count in row*: at every bit of a string, how many ones stand in a row up to here. One S6 channel does it, with
weights that were written down (`mambascope.theory.count_in_row`), exactly, in float32 and float64: none of 114,690
counts is wrong over all strings up to length 12 and long ones up to 4,096 (`python -m benchmarks.expressiveness`). A
head without softmax cannot, already at length 3. That is a finite system of equations without a solution, in exact
fractions: with tokens alone, 011 less 101 reads 0 = 1; with any positions in q, k and v, 001 - 011 - 101 + 111 does
(`mambascope.theory.certificate`; `--out` writes the systems to files that any solver reads). Heads that divide by a
sum, decays that the tokens set, and tokens mixed before are not covered: a softmax with positions can count.

What training finds is another question. One S6 channel, one gated-delta head, and softmax and linear-attention heads
with and without rotary positions, of 37 to 48 weights, learn from the same strings of 32 bits, 8 seeds each (`python
-m benchmarks.count_in_row`; bands are 95 % intervals over seeds):

![Share of right answers against length, and the answers against the run](count_in_row.png)

S6 answers all strings of the length that it was trained on, the delta head 87 %, the others 34 % to 47 %; always
answering zero before a one would give 29 %. Beyond that length S6 falls to 88 % at 64 bits and 30 % at 512: it learns
the rule, but its decay stays a little below 1, so long runs saturate. Linear attention answers a straight line in the
number of ones and cannot start again; softmax without positions answers about 6 whatever the run.

## How many matrices

The paper counts a hundred times as many attention matrices in a Mamba as in a Transformer of its width. That holds
where every channel has a matrix of its own (Mamba-1, RWKV-4, RG-LRU), and no longer where channels share one by heads
(`python -m benchmarks.expressiveness`; sizes that are named were set by hand, since the class's defaults are others):

{matrices}

## What a layer remembers

`mambascope info tiny-hybrid --stats TEXT --out memory.png`: how far each layer looks (lines span 5 % to 95 % of its
maps, bars the quartiles); how fast its maps forget; how much of the last state each token holds; how alike tokens
become.

![Distance, reach and entropy by layer; decays; who holds the state; likeness of tokens](memory.png)

`mambascope.theory.memory.state` returns the state h of a layer at any position.

## Where the truth is known

Models with weights set by hand copy, recall by key, overwrite, count, add, subtract and do induction; what their
answers come from is known without training (`mambascope.models.constructed`). `mambascope evaluate constructed`
judges methods on them: [docs/constructed.md](constructed.md).
"""


def row(name: str, found: Classification) -> str:
    """Return one line of the table."""
    evidence = found.evidence
    said = "" if name not in THEOREM else "yes" if THEOREM[name] == found.kind else "**no**"
    changes = (evidence.input, evidence.scale, evidence.far, evidence.separable, evidence.lag)
    ranks = "–".join(dict.fromkeys((str(found.ranks[0]), str(found.ranks[2]))))
    decays = "–".join(dict.fromkeys((f"{found.decays[0]:.2f}", f"{found.decays[2]:.2f}")))
    cells = (name, PAPERS.get(name, ""), found.kind, said, *map(change, changes), ranks, decays)
    return f"| {' | '.join(map(str, cells))} |"


HEAD = (
    "| layer | paper | mixes | as theorem 1 says | input | scale | far | product | lag | rank | decay |\n"
    "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--out", type=Path, help="write the page here instead of printing it")
    options = parser.parse_args()
    lines = [row(name, found) for name, found in measured_layers(options.width, options.length)]
    page = PAGE.format(
        width=options.width, length=options.length, table="\n".join((HEAD, *lines)), matrices=matrices_table()
    )
    if options.out:
        write_whole(options.out, page)
    else:
        print(page)


if __name__ == "__main__":
    main()
