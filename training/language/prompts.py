"""Look for short prompts whose end follows from their beginning alone: `python -m training.language.prompts FOLDER …`.

Every prompt says a name twice; the second time it breaks off inside the name. Its score is the probability of the rest
of the name, with the first occurrence and with another name in its place; the prompts shown are those by which the
model that gains least gains most.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

#: Names as (what the prompt ends with, the rest).
NAMES = (
    ("B", "olton"),
    ("Har", "court"),
    ("L", "ambert"),
    ("Br", "adshaw"),
    ("A", "shburnham"),
    ("Ash", "burnham"),
    ("D", "ashwood"),
    ("G", "ordon"),
    ("M", "orton"),
    ("Hall", "iday"),
    ("Bark", "worthy"),
)

#: Texts in which {first} stands for the whole name and {second} for its beginning, at the very end.
TEXTS = (
    "Mr. {first} was a rich man, and Mrs. {first} was proud of it. Every day Mr. {second}",
    "Mr. {first} came into the room and sat down by the fire. Nobody spoke for some time. At last Mr. {second}",
    'Mrs. {first} looked at the letter, and then at her daughter. "I am sorry," said Mrs. {second}',
    "There was once a young man named {first}, who lived with his mother near the sea. One day {second}",
    '"I have seen Miss {first}," said the doctor, "and she is better." He did not say where he had seen Miss {second}',
    "Lady {first} had a house in London and another in the country. Everyone liked Lady {second}",
    "Captain {first} went on board at noon. The men were glad to see Captain {second}",
    '"Good morning, Mr. {first}," said the boy. "Good morning," said Mr. {second}',
    "Her name was {first}. Her father was called {second}",
    "The old house belonged to Sir John {first}. It was said that Sir John {second}",
    '"Is Mr. {first} at home?" she asked. "No," said the servant, "Mr. {second}',
)


@dataclass(frozen=True)
class Finding:
    """One prompt with the probability of what follows, per model, with and without the name's first occurrence."""

    prompt: str
    rest: str
    with_first: tuple[float, ...]
    without_first: tuple[float, ...]

    def worst_gain(self) -> float:
        """Return the least that any model's probability gains by the name's first occurrence."""
        return min(a - b for a, b in zip(self.with_first, self.without_first, strict=True))


@torch.no_grad()
def probability(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, rest: str) -> float:
    """Return the probability that the text goes on with `rest`, the product over its tokens."""
    given = tokenizer(prompt, return_tensors="pt").input_ids
    whole = tokenizer(prompt + rest, return_tensors="pt").input_ids
    if not torch.equal(whole[:, : given.shape[1]], given):
        return 0.0  # the name's beginning is no token boundary
    logits = model(whole, use_cache=False).logits[0, given.shape[1] - 1 : -1].log_softmax(-1)
    return float(logits.gather(1, whole[0, given.shape[1] :, None]).sum().exp())


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--other", default="Robinson", help="the name put in the place of the first occurrence")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs = [
        (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
            AutoTokenizer.from_pretrained(folder),
        )
        for folder in options.folders
    ]
    findings = []
    for text, (start, rest) in product(TEXTS, NAMES):
        prompt = text.format(first=start + rest, second=start)
        other = text.format(first=options.other, second=start)
        findings.append(
            Finding(
                prompt,
                rest,
                tuple(probability(*pair, prompt, rest) for pair in pairs),
                tuple(probability(*pair, other, rest) for pair in pairs),
            )
        )
    findings.sort(key=Finding.worst_gain, reverse=True)
    for finding in findings[: options.top]:
        print(f"{finding.prompt} → {finding.rest}")
        for folder, with_first, without in zip(options.folders, finding.with_first, finding.without_first, strict=True):
            print(
                f"    {folder.name:12} {with_first:.3f} with the name before, {without:.5f} with {options.other} before"
            )


if __name__ == "__main__":
    main()
