"""Which layer of a hybrid looks a number up? Ask the model by ablation, then ask the scores.

    python -m benchmarks.hybrid_retrieval [--models tiny-hybrid] [--rows 100] [--needles 2] [--length 256] [--scores]

A row is text of a held-out novel with secrets in it ("The secret of the doctor is 47192."), and one of them is asked
for at the end. At the places that predict the number's digits, and nowhere else, the output of one part of one layer
(its mixer, or its MLP) is replaced:

* by its mean over those places in all rows, for each digit separately ("mean"), or by zero ("zero"): what falls is all
  that the part does there, be it looking up or knowing which digit is next;
* by what it was when the needle told another number and everything else was the same ("exchanged"): what changes is
  only what the part brings of the number. "gives the other" is the share of rows in which the first digit is then that
  of the other number; the digits after it are asked with the right ones before them, which the other number has not.

"given to all" exchanges a part's outputs at every place after the needle in question, so that a number that a layer
brings along step by step is found too. Reported are the mean log-probability of the right digits and the share of whole
numbers and of digits that are right. Only hooks on the stock model are used. With --scores the same question is put to
mambascope's methods: the share of the scores for the first digit's prediction, of each layer or of the whole model, on
that digit in the needle; and how much of the answer each kind of mixer carried.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor, nn

import mambascope
from mambascope.errors import MambascopeError
from mambascope.methods.registry import METHODS
from training.language.corpus import data_folder
from training.retrieval import Haystack, haystacks

#: What the parts of a layer are called in the families of the bundled hybrids, with the kind of the part.
PARTS = {
    "mamba": "scan",
    "linear_attn": "delta",
    "self_attn": "attention",
    "mixer": "scan",
    "feed_forward": "mlp",
    "mlp": "mlp",
}
#: Rows that run at once.
BATCH = 25

PAGE = """# Where retrieval sits in the bundled hybrids

Made by `make retrieval`; do not edit. A row is text of a held-out novel with two secrets in it ("The secret of the
doctor is 47192."), and one of them is asked for at the end. First the model is asked, by hooks on the stock model: at
the places that predict the number's digits, what one part of a layer puts out is replaced by its mean over the rows,
by zero, or by what it was when the needle told another number ("exchanged"; "given to all": at every place after the
needle). Then the methods are asked what the first digit's prediction drew from: which share of the scores is on that
digit in the needle, and in how many rows it ranks first.
"""

Replace = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Questions:
    """Rows that end with a question's number; in `others` its needle tells another number, and all else is the same."""

    rows: Tensor
    others: Tensor
    #: Places of the asked digits in the needle and after the question, (rows, DIGITS).
    told: Tensor
    asked: Tensor

    @property
    def predicting(self) -> Tensor:
        """The places whose outputs predict the asked digits."""
        return self.asked - 1


def questions(haystack: Haystack, count: int, length: int, needles: int, seed: int) -> Questions:
    """Return rows of at most this many tokens, cut after the first question's number."""
    rng = np.random.default_rng((seed, length, needles))
    sample = haystack.needles(rng, count, length, needles)
    end = int(sample.asked[0, 0, -1]) + 1
    others = sample.rows.copy()
    for row, places in zip(others, sample.values[:, 0], strict=True):
        # one of the nine other digits for each, so that no digit of the two numbers is the same
        before = np.searchsorted(haystack.digits, row[places])
        row[places] = haystack.digits[(before + rng.integers(1, 10, len(places))) % 10]
    parts = sample.rows[:, :end], others[:, :end], sample.values[:, 0], sample.asked[:, 0]
    return Questions(*(torch.from_numpy(part) for part in parts))


def parts_of(model: nn.Module) -> dict[tuple[int, str], nn.Module]:
    """Return every layer's mixer and MLP by (layer, kind)."""
    return {
        (number, kind): getattr(layer, name)
        for number, layer in enumerate(layers_of(model))
        for name, kind in PARTS.items()
        if hasattr(layer, name)
    }


def layers_of(model: nn.Module) -> nn.ModuleList:
    """Return the model's layers."""
    body: nn.Module = model.base_model
    layers = body.layers
    assert isinstance(layers, nn.ModuleList)
    return layers


@contextlib.contextmanager
def hooked(module: nn.Module, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Pass what a module puts out through `change` until the end of the block; None leaves it as it is."""

    def hook(_: nn.Module, __: object, out: Tensor | tuple[Tensor, ...]) -> object:
        first = out[0] if isinstance(out, tuple) else out
        changed = change(first)
        if changed is None:
            return None
        return (changed, *out[1:]) if isinstance(out, tuple) else changed

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def outputs(model: nn.Module, rows: Tensor, parts: dict[tuple[int, str], nn.Module]) -> dict[tuple[int, str], Tensor]:
    """Return what the parts put out for some rows, (rows, L, width)."""
    kept: dict[tuple[int, str], list[Tensor]] = {key: [] for key in parts}
    for some in rows.split(BATCH):
        handles = [
            part.register_forward_hook(
                lambda _, __, out, key=key: kept[key].append(out[0] if isinstance(out, tuple) else out)
            )
            for key, part in parts.items()
        ]
        model.base_model(some, use_cache=False)
        for handle in handles:
            handle.remove()
    return {key: torch.cat(pieces) for key, pieces in kept.items()}


@dataclass(frozen=True)
class Answered:
    """How the questions were answered.

    Attributes:
        logp: Mean log-probability of the right digits.
        whole: Share of numbers that are right to the last digit, each digit given the right ones before it.
        digits: Share of digits that are right.
        others: Share of rows whose first digit is that of the other number.
    """

    logp: float
    whole: float
    digits: float
    others: float


@torch.no_grad()
def answered(
    model: nn.Module,
    asking: Questions,
    part: nn.Module | None = None,
    places: Tensor | None = None,
    values: Tensor | None = None,
) -> Answered:
    """Return the answers, with a part's outputs replaced by `values`, (rows, n, width), at `places`, (rows, n)."""
    right, logp, other = [], [], []
    for index in torch.arange(len(asking.rows)).split(BATCH):
        rows, predicting = asking.rows[index], asking.predicting[index]

        def replace(out: Tensor, index: Tensor = index) -> Tensor | None:
            if places is None or values is None:
                return None
            at = places[index][..., None].expand(-1, -1, out.shape[-1])
            return out.scatter(1, at, values[index].to(out))

        with hooked(part or model, replace) if part is not None else hooked(model.lm_head, lambda _: None):
            hidden = model.base_model(rows, use_cache=False)[0]
        logits = model.lm_head(hidden.gather(1, predicting[..., None].expand(-1, -1, hidden.shape[-1]))).float()
        truth, told = rows.gather(1, asking.asked[index]), asking.others[index].gather(1, asking.told[index])
        logp.append(logits.log_softmax(-1).gather(2, truth[..., None])[..., 0])
        right.append(logits.argmax(-1) == truth)
        other.append(logits[:, 0].argmax(-1) == told[:, 0])
    found = torch.cat(right)
    return Answered(
        float(torch.cat(logp).mean()),
        float(found.all(1).float().mean()),
        float(found.float().mean()),
        float(torch.cat(other).float().mean()),
    )


def ablated(model: nn.Module, asking: Questions) -> dict[tuple[int, str], dict[str, Answered]]:
    """Return by part how the questions are answered when it is replaced in each of the ways."""
    parts = parts_of(model)
    told, told_otherwise = outputs(model, asking.rows, parts), outputs(model, asking.others, parts)
    places = asking.predicting
    after = _after_the_needle(asking)
    results = {}
    for key, part in parts.items():
        own, other = (_at(tensor, places) for tensor in (told[key], told_otherwise[key]))
        ways = {
            "mean": (places, own.mean(0, keepdim=True).expand_as(own)),
            "zero": (places, torch.zeros_like(own)),
            "exchanged": (places, other),
            "given to all": (after, _at(told_otherwise[key], after)),
        }
        results[key] = {way: answered(model, asking, part, *given) for way, given in ways.items()}
    return results


def _at(tensor: Tensor, places: Tensor) -> Tensor:
    """Return the vectors of (rows, L, width) at (rows, n) places."""
    return tensor.gather(1, places[..., None].expand(-1, -1, tensor.shape[-1]))


def _after_the_needle(asking: Questions) -> Tensor:
    """Return for every row its places after the needle in question; a row with fewer repeats its last."""
    last = asking.rows.shape[1] - 1
    first = asking.told[:, -1:] + 1
    return (first + torch.arange(last)).clamp(max=last)


def print_ablation(name: str, model: nn.Module, asking: Questions) -> None:
    """Print the figures of one model."""
    whole = answered(model, asking)
    print(f"\n## {name}")
    print(
        f"\n{len(asking.rows)} rows of {asking.rows.shape[1]} tokens, log-probability of the right digit "
        f"{whole.logp:.3f}, numbers right {whole.whole:.0%}, digits right {whole.digits:.1%}\n"
    )
    print(
        "| layer | part | mean: log-probability falls by | digits right | numbers right | zero: falls by |"
        " digits right | numbers right | exchanged: falls by | digits right | gives the other |"
        " given to all: gives the other |"
    )
    print("| ---: | --- |" + " ---: |" * 10)
    for (layer, kind), ways in ablated(model, asking).items():
        mean, zero, exchanged, everywhere = ways.values()
        cells = [
            *(
                text
                for way in (mean, zero)
                for text in (f"{whole.logp - way.logp:.2f}", f"{way.digits:.0%}", f"{way.whole:.0%}")
            ),
            f"{whole.logp - exchanged.logp:.2f}",
            f"{exchanged.digits:.0%}",
            f"{exchanged.others:.0%}",
            f"{everywhere.others:.0%}",
        ]
        print(f"| {layer} | {kind} | {' | '.join(cells)} |")


def print_scores(name: str, asking: Questions, rows: int) -> None:
    """Print by method and layer, over some rows, the share of the scores on the digit that is asked for."""
    model, _ = mambascope.load(name)
    print(f"\nThe first digit of {rows} rows; shares are of the absolute scores.\n")
    print("| method | layer | share on the asked digit | it ranks first |\n| --- | --- | ---: | ---: |")
    for method in METHODS:
        found: dict[str, list[tuple[float, bool]]] = {}
        try:
            for row in range(rows):
                told = int(asking.told[row, 0])
                for layer, scores in scored(model, asking, row, method).items():
                    share = scores[told] / scores.sum().clamp(min=torch.finfo(scores.dtype).tiny)
                    found.setdefault(layer, []).append((float(share), int(scores.argmax()) == told))
        except MambascopeError as refusal:
            print(f"| {method} | | {' '.join(str(refusal).split())} | |")
        else:
            for layer, each in found.items():
                share, first = (float(np.mean(column)) for column in zip(*each, strict=True))
                print(f"| {method} | {layer} | {share:.1%} | {first:.0%} |")


def scored(model: nn.Module, asking: Questions, row: int, method: str) -> dict[str, Tensor]:
    """Return a method's absolute scores for the first digit of a row, by layer, or under "whole model"."""
    place, token = int(asking.predicting[row, 0]), int(asking.rows[row, asking.asked[row, 0]])
    ids = {"input_ids": asking.rows[row : row + 1, : place + 1]}
    target = token if METHODS[method].asks else None
    result = mambascope.explain(model, None, ids, method=method, position=place, target=target)
    scores = result.scores[:, 0].abs()
    if len(scores) == 1:
        return {"whole model": scores[0]}
    kinds = result.layer_kinds
    return {f"{number}, {kinds[number]}": scores[place] for place, number in enumerate(result.axes["layer"])}


def print_kinds(name: str, asking: Questions, rows: int) -> None:
    """Print how much of the answer each kind of mixer carried, by ALTI-Logit and by cutting what the digit gives."""
    model, _ = mambascope.load(name)
    carried: dict[str, list[float]] = {}
    cut: dict[str, list[tuple[float, bool]]] = {}
    for row in range(rows):
        place, told = int(asking.predicting[row, 0]), int(asking.told[row, 0])
        token = int(asking.rows[row, asking.asked[row, 0]])
        ids = asking.rows[row : row + 1, : place + 1]
        result = mambascope.explain(model, None, {"input_ids": ids}, method="alti-logit", position=place, target=token)
        for kind, share in result.kind_shares().items():
            carried.setdefault(kind, []).append(share)
        trace = mambascope.capture(model, input_ids=ids)
        for kind in carried:
            effect = mambascope.methods.knockout(trace, mambascope.readouts.token(place, token), kinds={kind})
            falls = effect.scores.flatten()
            cut.setdefault(kind, []).append((float(falls[told]), int(falls.argmax()) == told))
    print(
        f"\nBy kind of mixer, {rows} rows: ALTI-Logit's share of the answer, and how far the digit's logit falls when"
    )
    print("mixers of that kind do not hand the asked digit to the place that predicts it (knockout).\n")
    print("| kind | share of the answer | logit falls by | the asked digit's fall is the largest |")
    print("| --- | ---: | ---: | ---: |")
    for kind, shares in carried.items():
        falls, first = (float(np.mean(column)) for column in zip(*cut[kind], strict=True))
        print(f"| {kind} | {np.mean(shares):.1%} | {falls:.2f} | {first:.0%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tiny-hybrid", "tiny-delta-hybrid"])
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--needles", type=int, default=2)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="the data folder (MAMBASCOPE_DATA)")
    parser.add_argument("--cache", type=Path, default=Path("runs/retrieval-data"))
    parser.add_argument("--scores", type=int, default=0, metavar="ROWS", help="put so many rows to the methods too")
    parser.add_argument("--out", type=Path, help="write the page here instead of printing it")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed if options.out else sys.stdout):
        for name in options.models:
            print_all(name, options)
    if options.out:
        options.out.write_text(f"{PAGE}{printed.getvalue()}", encoding="utf-8")


def print_all(name: str, options: argparse.Namespace) -> None:
    """Print what is asked of one model."""
    folder = mambascope.bundled_models().get(name, name)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = haystacks(options.cache, data_folder(options.data), tokenizer)
    haystack = Haystack(texts["held-out"], tokenizer)
    asking = questions(haystack, options.rows, options.length, options.needles, options.seed)
    print_ablation(name, model, asking)
    if options.scores:
        print_kinds(name, asking, options.scores)
        print_scores(name, asking, options.scores)


if __name__ == "__main__":
    main()
