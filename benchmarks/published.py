"""What papers report for the tasks, on models of their own: for orientation, not for comparison digit by digit."""

from __future__ import annotations

LATIM = "LaTIM (arXiv 2502.15612)"
MAMBA_LRP = "MambaLRP (arXiv 2406.07592)"
HIDDEN_ATTENTION = "The Hidden Attention of Mamba Models (arXiv 2403.01590)"

#: Task → heads of the columns and lines: method, model, figures, source.
PUBLISHED: dict[str, tuple[str, tuple[tuple[str, str, str, str], ...]]] = {
    "copying": (
        "AUC / AP / recall@K",
        (
            ("Mamba-Attention", "Mamba-1", ".84 / .36 / .22", LATIM),
            ("MambaLRP", "Mamba-1", ".40 / .22 / .20", LATIM),
            ("LaTIM-ALTI, its best", "Mamba-1", ".86 / .47 / .36", LATIM),
            ("Mamba-Attention", "Mamba-2", ".79 / .49 / .39", LATIM),
            ("LaTIM ℓ2, its best", "Mamba-2", ".98 / .86 / .74", LATIM),
        ),
    ),
    "alignment": (
        "AER, German-English of RWTH",
        (
            ("Mamba-Attention", "both", ".84 to .85", LATIM),
            ("LaTIM ℓ2", "both", ".44 to .52", LATIM),
            ("ALTI-Logit", "both", ".63 to .69", LATIM),
            ("MambaLRP", "both", ".47", LATIM),
        ),
    ),
    "sentiment": (
        "ΔA_F on SST-2",
        (
            ("MambaLRP", "Mamba-130M", "1.157", MAMBA_LRP),
            ("LRP with frozen norms alone", "Mamba-130M", "0.820", MAMBA_LRP),
            ("Mamba-Attribution", "Mamba-130M", "0.341", MAMBA_LRP),
        ),
    ),
    "perturbation": (
        "ImageNet, % AUC: positive ↓ / negative ↑",
        (
            ("raw attention", "Vim", "17.3 / 34.0", HIDDEN_ATTENTION),
            ("rollout", "Vim", "18.8 / 41.9", HIDDEN_ATTENTION),
            ("Mamba-Attribution", "Vim", "16.6 / 39.6", HIDDEN_ATTENTION),
            ("raw attention", "ViT", "20.7 / 40.8", HIDDEN_ATTENTION),
            ("rollout", "ViT", "20.6 / 43.5", HIDDEN_ATTENTION),
            ("Transformer-Attribution", "ViT", "15.4 / 48.1", HIDDEN_ATTENTION),
        ),
    ),
    "segmentation": (
        "ImageNet-Seg, %: pixel accuracy / mAP / mIoU",
        (
            ("raw attention", "Vim", "67.6 / 74.9 / 45.1", HIDDEN_ATTENTION),
            ("rollout", "Vim", "71.0 / 80.8 / 51.5", HIDDEN_ATTENTION),
            ("Mamba-Attribution", "Vim", "74.7 / 81.7 / 54.2", HIDDEN_ATTENTION),
            ("Transformer-Attribution", "ViT", "79.3 / 84.9 / 60.6", HIDDEN_ATTENTION),
        ),
    ),
}

#: Remarks on a task's published figures.
REMARKS = {
    "copying": """MambaLRP's published AUC is below chance. If the gold source is taken one position further than where
the copied symbol stood, ours falls to .39 and .41 (`python -m benchmarks.copying_gold`): reading what a prediction
draws from with such an offset would explain that line.""",
}


def published_table(task: str) -> str:
    """Return a Markdown table of what papers report for a task, or nothing."""
    if task not in PUBLISHED:
        return ""
    head, lines = PUBLISHED[task]
    rows = [("published", "model", head, "in"), ("---", "---", "---", "---"), *lines]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return "\n\n".join(filter(None, (table, REMARKS.get(task))))
