"""What papers report, beside what this project measured, for the pages in docs/papers/.

The published figures are those of `benchmarks.published`; ours are read from the generated pages `docs/evaluation.md`
and `docs/evaluation_pictures.md`. Models, data and sizes differ, so orders can be compared, and sizes cannot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.published import PUBLISHED, REMARKS

DOCS = Path(__file__).parents[1] / "docs"
NUMBER = re.compile(r"\d+\.\d+")

#: Published method → ours: the paper's formulas, and what its code does where that differs.
METHODS: Mapping[str, Sequence[str]] = {
    "raw attention": ("raw-attention", "raw-attention:reference-code"),
    "rollout": ("rollout", "rollout:reference-code"),
    "Mamba-Attribution": ("mamba-attribution", "mamba-attribution:reference-code"),
    "Transformer-Attribution": ("transformer-attribution",),
    "Mamba-Attention": ("hidden-attention",),
    "MambaLRP": ("mamba-lrp",),
    "LaTIM-ALTI, its best": ("latim-alti", "latim-alti, best layer"),
    "LaTIM ℓ2, its best": ("latim", "latim, best layer"),
    "LaTIM ℓ2": ("latim",),
    "ALTI-Logit": ("alti-logit",),
}


class Markdown(str):
    """Markdown, which a notebook shows as what it says."""

    def _repr_markdown_(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Measured:
    """Where a task's figures of ours stand.

    Attributes:
        page: The page in docs/.
        section: Its section.
        columns: The metrics, in the order of the published figures.
        models: Published model → ours.
    """

    page: str
    section: str
    columns: tuple[str, ...]
    models: Mapping[str, str]


VISION = {"Vim": "zoo/vision-digits-vim", "ViT": "zoo/vision-digits-vit"}
MEASURED = {
    "perturbation": Measured(
        "evaluation_pictures.md", "perturbation", ("pos. AUC (predicted) ↓", "neg. AUC (predicted) ↑"), VISION
    ),
    "segmentation": Measured("evaluation_pictures.md", "segmentation", ("pixel accuracy ↑", "AP ↑", "mIoU ↑"), VISION),
    "copying": Measured(
        "evaluation.md",
        "copying",
        ("AUC ↑", "AP ↑", "recall@K ↑"),
        {"Mamba-1": "zoo:copying-mamba", "Mamba-2": "zoo:copying-mamba2"},
    ),
    "alignment": Measured(
        "evaluation.md", "alignment-de-en", ("AER (predicts-target) ↓",), {"both": "zoo:translation-de-en-mamba2"}
    ),
}


def table_of(page: str, section: str) -> dict[tuple[str, str, str], str]:
    """Return the first table of a section of a page: (method, model, metric) → the number as printed.

    Raises:
        SystemExit: if there is no such section.
    """
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    if f"## {section}" not in lines:
        raise SystemExit(f"{page} has no section {section}")
    table = lines[lines.index(f"## {section}") :]
    start = next(k for k, line in enumerate(table) if line.startswith("| method |"))
    _, *heads = _cells(table[start])
    found = {}
    for line in table[start + 2 :]:
        if not line.startswith("|"):
            break
        method, *values = _cells(line)
        for head, value in zip(heads, values, strict=True):
            model, metric = head.split("<br>")
            if number := NUMBER.search(value):
                found[method, model, metric] = number[0]
    return found


def beside(task: str) -> Markdown:
    """Return a table of a task, each published line with what the same method gets on our models, and remarks.

    Raises:
        SystemExit: if a published line has no counterpart on our pages.
    """
    head, lines = PUBLISHED[task]
    measured = MEASURED[task]
    ours = table_of(measured.page, measured.section)
    rows = [("method", "model", f"published: {head}", "ours", "by"), ("---",) * 5]
    for method, model, figures, _ in lines:
        name = measured.models[model]
        for one in METHODS[method]:
            values = [ours[one, name, column] for column in measured.columns if (one, name, column) in ours]
            if len(values) == len(measured.columns):
                rows.append((method, model, figures, " / ".join(values), f"`{one}`, {name}"))
        if rows[-1][:2] != (method, model):
            raise SystemExit(f"{measured.page} says nothing of {method} on {name}")
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return Markdown("\n\n".join(filter(None, (table, REMARKS.get(task)))))


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]
