"""One training loop for the task models: any model, any source of batches, checkpoints and curves as for text.

The same command goes on from the last checkpoint. A batch is a function of the step alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from training.running import checkpoint
from training.running.loss import mixed_precision
from training.running.optimiser import optimiser
from training.running.progress import append, trim
from training.running.scans import fast_scans
from training.running.schedule import learning_rate

Model = TypeVar("Model", bound=nn.Module)


class Batch(NamedTuple):
    """Rows of (b, L + 1) tokens, and which of their tokens 1, 2, … are learnt to be predicted (or how much), (b, L)."""

    rows: Tensor
    learnt: Tensor

    @property
    def seen(self) -> int:
        """How many tokens there are to predict."""
        return self.learnt.numel()


class Learnt(Protocol):
    """What a step is taken on, whatever it holds."""

    @property
    def seen(self) -> int:
        """How much of the data it shows, in the task's own unit: tokens, pictures."""


class Task(Protocol):
    """What a model is trained on."""

    def step(self, step: int) -> Any:
        """Return the batch of one step, a `Learnt` that the loss knows."""

    def validate(self, model: Any) -> dict[str, float]:
        """Return figures on held-out examples, the same names every time."""


@dataclass(frozen=True)
class Settings:
    """What decides the outcome of a run, besides its task's own data."""

    task: str
    architecture: dict[str, Any]
    steps: int
    peak: float = 2e-3
    warmup: int = 100
    decay: int = 500
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    #: Settings of the task's batches.
    batches: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reporting:
    """How often a run reports, validates and writes a checkpoint; none of it changes the outcome."""

    log_steps: int = 50
    validation_steps: int = 250
    checkpoint_seconds: float = 120.0
    #: What the batches' `seen` counts.
    unit: str = "tokens"


def masked_loss(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Return the (weighted) mean loss in nats of the learnt tokens; only their logits are computed."""
    hidden = model.base_model(batch.rows[:, :-1], use_cache=False)[0]
    chosen = batch.learnt > 0
    losses = F.cross_entropy(model.lm_head(hidden[chosen]).float(), batch.rows[:, 1:][chosen], reduction="none")
    weights = batch.learnt[chosen].float()
    return (losses * weights).sum() / weights.sum()


def train(
    settings: Settings,
    model: Model,
    task: Task,
    out: Path,
    reporting: Reporting | None = None,
    compiled: bool = False,
    stop_after: int | None = None,
    loss_of: Callable[[Any, Any], Tensor] = masked_loss,
) -> Model:
    """Train a freshly initialised model, or go on from `out`, and return it; `stop_after` breaks off as a crash would.

    `out` receives `checkpoint.pt`, `curve.csv` (training loss) and `validation.csv` (the task's figures). The loss is
    that of language models unless another is given.
    """
    reporting = reporting or Reporting()
    out.mkdir(parents=True, exist_ok=True)
    optimizer = optimiser(model.train(), settings.peak, settings.weight_decay)
    progress, path, tokens = checkpoint.Progress(), out / "checkpoint.pt", 0
    if path.exists():
        state = checkpoint.load(path, asdict(settings))
        progress, tokens = state["progress"], state["tokens"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    trim(out / "curve.csv", progress.step, ("step", reporting.unit, "seconds", "loss", "rate", "norm"))
    if compiled:
        getattr(model, "backbone", model).compile(dynamic=True)
    last = settings.steps if stop_after is None else min(stop_after, settings.steps)
    last_save, losses, norms = time.monotonic(), [], []
    while progress.step < last:
        began = time.perf_counter()
        rate = learning_rate(progress.step, settings.steps, settings.peak, settings.warmup, settings.decay)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = task.step(progress.step)
        with fast_scans(), mixed_precision():
            loss = loss_of(model, batch)
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), settings.clip)))
        optimizer.step()
        optimizer.zero_grad()
        progress.step += 1
        progress.seconds += time.perf_counter() - began
        tokens += batch.seen
        losses.append(float(loss.detach()))
        at_end = progress.step == last
        if progress.step % reporting.log_steps == 0 or at_end:
            loss_mean, norm = sum(losses) / len(losses), sum(norms) / len(norms)
            seconds = f"{progress.seconds:.1f}"
            append(
                out / "curve.csv", (progress.step, tokens, seconds, f"{loss_mean:.4f}", f"{rate:.6f}", f"{norm:.3f}")
            )
            speed = tokens / progress.seconds
            print(
                f"{settings.task} step {progress.step}/{settings.steps} loss {loss_mean:.3f} norm {norm:.2f} "
                f"{seconds} s {speed:,.0f} {reporting.unit}/s",
                flush=True,
            )
            losses, norms = [], []
        if progress.step % reporting.validation_steps == 0 or at_end:
            # Decoding passes through a hundred shapes; to compile each would take longer than to run it.
            with torch.compiler.set_stance("force_eager"):
                figures = task.validate(model.eval())
            model.train()
            _record(out / "validation.csv", progress.step, figures)
        if time.monotonic() - last_save > reporting.checkpoint_seconds or at_end:
            states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "tokens": tokens}
            checkpoint.save(path, progress, asdict(settings), **states)
            last_save = time.monotonic()
    return model


def _record(table: Path, step: int, figures: dict[str, float]) -> None:
    """Write a row of the task's figures, dropping rows of an abandoned future."""
    trim(table, step - 1, ("step", *figures))
    append(table, (step, *(f"{value:.4f}" for value in figures.values())))
    print("held out: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()), flush=True)
