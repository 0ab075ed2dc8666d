"""Which method tells the truth where it is known? Every method on every mechanism that is known by construction.

    python -m benchmarks.constructed [--limit 30] [--out runs/constructed] [--page docs/constructed.md]

The models of `mambascope.models.constructed` are stock classes whose weights were written down, so it is known for each
text which tokens the answer is made of (sources), which only guide the reading, and which must get nothing. A cell has
the share of the K sources that are among the K highest scores, guides left out, and after it the share of all |score|
on sources and on tokens that must get nothing, in percent; what is left is on guides. Means over texts and over the
architectures in which the mechanism exists and which the method can read. A method that gives nothing at all has the
rank of chance.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas
import transformers

from mambascope.evaluate.results import read_run
from mambascope.evaluate.run import run
from mambascope.evaluate.summary import ALL_LAYERS, long_table
from mambascope.evaluate.tasks import find_task
from mambascope.files import write_whole
from mambascope.methods.registry import METHODS
from mambascope.models.constructed import MECHANISMS, constructed_models

PAGE = """# Where the truth is known by construction

Made by `make constructed`; do not edit.

{about} Each model read {texts} texts.

Of what is known of methods this comes first, since nothing here was learnt; then come models that were trained from
several seeds on tasks whose answers can come from one token alone ([trained_seeds.md](trained_seeds.md)), and then
interventions on models of real text ([agreement.md](agreement.md)).

What fails does so by the method's definition. Methods that average the steps of single layers give a relay's answer to
the token that relayed it. Hidden attention and rollout see neither the convolution (`copy`) nor the gate (`gate`).
Knockout and value zeroing cut what is mixed, after the convolution, so they name its neighbour. MambaLRP halves at an
open gate, so half of it is on the token that the answer is read from: leave that token out of the ranking, as here.
Gradient × input is small at sources, since a norm ignores the size of what it reads. Occlusion puts a text outside of
what the model is made for.

{mechanisms}

`gate` needs a gate that depends on the target, which only Mamba and Mamba-2 have. Softmax takes means, so it can
neither count nor add up. What a delta net writes replaces part of what it holds: n ones in a row make
1 - (1 - 1/16)^n, which tells n exactly, but a sum would depend on the order of its numbers.

To read a text with one of these models: `mambascope info constructed:recall-mamba2` gives a text to try, and
`mambascope explain "a=1 . b=3 , a?" --model constructed:recall-mamba2` explains it.

## Sources first, share on sources, share on tokens that must get nothing

{shares}

## Right signs

Share of the sources whose score has the right sign, for methods that have signs; only in `difference` does a source
speak against the answer.

{signs}

## Sources first, by architecture

{architectures}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/constructed"), help="where results are kept")
    parser.add_argument("--limit", type=int, help="texts for each model; by default 30")
    parser.add_argument("--page", type=Path, help="write the page of the documentation here")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    run(find_task("constructed"), None, list(METHODS), options.out, limit=options.limit, resume=True)
    page = written(long_table(read_run(options.out).table))
    print(page)
    if options.page:
        write_whole(options.page, page)


def written(table: pandas.DataFrame) -> str:
    """Return the page of a run's long table."""
    known = constructed_models()
    table = table[table["layer"] == ALL_LAYERS]
    table = table.assign(
        mechanism=table["model"].map(lambda name: known[name][0].name),
        architecture=table["model"].map(lambda name: known[name][1]),
    )
    first, source, idle, signs = (
        means(table, metric, "mechanism", list(MECHANISMS))
        for metric in ("recall_at_k", "span_mass", "idle_mass", "sign_agreement")
    )
    cells = pandas.DataFrame(
        {
            name: [
                "–" if pandas.isna(a) else f"{a:.2f} ({100 * b:.0f}, {100 * c:.0f})"
                for a, b, c in zip(first[name], source[name], idle[name], strict=True)
            ]
            for name in first
        },
        index=first.index,
    )
    lines = [f"* `{one.name}` ({', '.join(one.architectures)}): {one.does}." for one in MECHANISMS.values()]
    return PAGE.format(
        about=(__doc__ or "").strip().split("\n\n")[2],
        texts=table["sample"].nunique(),
        mechanisms="\n".join(lines),
        shares=markdown(cells),
        signs=markdown(signs.map(number)),
        architectures=markdown(means(table, "recall_at_k", "architecture", None).map(number)),
    )


def means(table: pandas.DataFrame, metric: str, column: str, order: list[str] | None) -> pandas.DataFrame:
    """Return means of a metric: a line per method, a column for each mechanism or architecture."""
    rows = table[table["metric"] == metric]
    found = rows.pivot_table(index="method", columns=column, values="value", aggfunc="mean", sort=False)
    return found if order is None else found[[name for name in order if name in found]]


def number(value: float) -> str:
    return "–" if pandas.isna(value) else f"{value:.2f}"


def markdown(table: pandas.DataFrame, lines_are: str = "method") -> str:
    """Return a table of texts as Markdown; `lines_are` heads its first column."""
    head = [[lines_are, *table.columns], ["---"] * (1 + len(table.columns))]
    lines = [*head, *([method, *cells] for method, cells in zip(table.index, table.to_numpy(), strict=True))]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


if __name__ == "__main__":
    main()
