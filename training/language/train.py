"""Train one of the two bundled models on the novels: `python -m training.language.train tiny-mamba`.

The same command goes on from the last checkpoint. What decides the result is in `Settings`; a run is a function of
them, of the text and of the machine's floating-point arithmetic.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from training.language.induction_start import start_induction
from training.language.rows import PRACTICE, Rows
from training.language.tokens import load_split, load_tokenizer, prepare
from training.running import checkpoint
from training.running.allocator import keep_pages
from training.running.architectures import NAMES, build, configuration
from training.running.loss import bits_per_byte, mixed_precision, token_losses
from training.running.optimiser import optimiser
from training.running.progress import ProgressLine
from training.running.scans import fast_scans
from training.running.schedule import learning_rate

#: Length and number of the training rows on which an induction head's projections are fitted.
FITTED_ROWS = (256, 64)

#: How long each bundled model was trained, for how many of these steps the rate fell, and before which step one of its
#: layers was started anew as an induction head.
STEPS = {"tiny-mamba": 2700, "tiny-mamba2": 2800}
DECAY = {"tiny-mamba": 400, "tiny-mamba2": 500}
INDUCTION_STEP = {"tiny-mamba": 1520, "tiny-mamba2": 1350}
#: When each bundled model practised copying; tiny-mamba, which learns it more slowly, went on until its end.
PRACTICE_STEPS = {"tiny-mamba": (840, 2300, 2310), "tiny-mamba2": (840, 2300)}

#: Rows of the quick validation that is run now and then during training.
QUICK_ROWS = 64


@dataclass(frozen=True)
class Settings:
    """What decides the outcome of a run."""

    model: str
    steps: int
    batch: int = 8
    length: int = 512
    peak: float = 2e-3
    warmup: int = 200
    decay: int = 500
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    #: The step before which one layer is started anew as an induction head; 0 for never.
    induction: int = 0
    #: Steps at which practice in copying begins, ends, begins again …
    practice: tuple[int, ...] = PRACTICE


@dataclass(frozen=True)
class Reporting:
    """How often a run reports, validates and writes a checkpoint; none of it changes the outcome."""

    log_steps: int = 20
    validation_steps: int = 250
    checkpoint_seconds: float = 180.0


def train(
    settings: Settings,
    cache: Path,
    out: Path,
    reporting: Reporting | None = None,
    compiled: bool = True,
    stop_after: int | None = None,
    **sizes: int,
) -> PreTrainedModel:
    """Train, or go on training, and return the model; `stop_after` breaks off after so many steps, as a crash would.

    `out` receives `checkpoint.pt`, `curve.csv` (training loss) and `validation.csv`.
    """
    reporting = reporting or Reporting()
    out.mkdir(parents=True, exist_ok=True)
    text, held_out = load_split(cache, "training"), load_split(cache, "validation")
    torch.manual_seed(settings.seed)
    model = build(configuration(settings.model, len(load_tokenizer(cache)), **sizes)).train()
    optimizer = optimiser(model, settings.peak, settings.weight_decay)
    progress = checkpoint.Progress()
    path = out / "checkpoint.pt"
    if path.exists():
        state = checkpoint.load(path, asdict(settings))
        progress = state["progress"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    rows = Rows(text.tokens, settings.length, settings.batch, settings.seed, settings.practice)
    quick = Rows(held_out.tokens, settings.length, min(QUICK_ROWS, len(held_out.tokens) // settings.length - 1), seed=0)
    if compiled:
        model.backbone.compile(dynamic=False)

    def save() -> None:
        checkpoint.save(path, progress, asdict(settings), model=model.state_dict(), optimizer=optimizer.state_dict())

    last_save, last = time.monotonic(), settings.steps if stop_after is None else min(stop_after, settings.steps)
    with fast_scans(), ProgressLine(settings, out, progress, text.bytes_per_token) as line:
        while progress.step < last:
            began = time.perf_counter()
            if progress.step == settings.induction > 0:
                sample = Rows(text.tokens, *FITTED_ROWS, settings.seed).plain_step(0)
                start_induction(model, torch.from_numpy(sample))
            rate = learning_rate(progress.step, settings.steps, settings.peak, settings.warmup, settings.decay)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with mixed_precision():
                loss = token_losses(model, torch.from_numpy(rows.step(progress.step))).mean()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            optimizer.zero_grad()
            progress.step += 1
            progress.seconds += time.perf_counter() - began
            line.add(float(loss.detach()), float(norm), rate)
            if progress.step % reporting.log_steps == 0:
                line.report()
            if progress.step % reporting.validation_steps == 0 or progress.step == last:
                nats = quick_validation(model, torch.from_numpy(quick.plain_step(0)), settings.batch)
                line.validated(nats, bits_per_byte(nats, held_out.bytes_per_token))
            if time.monotonic() - last_save > reporting.checkpoint_seconds or progress.step == last:
                save()
                last_save = time.monotonic()
    return model


@torch.no_grad()
def quick_validation(model: PreTrainedModel, rows: torch.Tensor, batch: int) -> float:
    """Return the mean loss in nats per token over a fixed sample of held-out rows, as training computes it."""
    with mixed_precision():
        return float(torch.cat([token_losses(model, part) for part in rows.split(batch)]).mean())


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", choices=NAMES)
    parser.add_argument("--steps", type=int, help="default: as bundled; may change until the decay begins")
    parser.add_argument("--decay", type=int, help="steps of the final decay of the learning rate (default: as bundled)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--peak", type=float, default=2e-3, help="learning rate while it holds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--induction", type=int, help="step of the induction head's start, 0: none")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, help="the data folder (MAMBASCOPE_DATA), or a folder of .txt files")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="tokenizer and encoded text")
    parser.add_argument("--out", type=Path, help="the run's folder (default: runs/MODEL)")
    parser.add_argument("--eager", action="store_true", help="do not compile the model (slower, starts at once)")
    options = parser.parse_args()
    keep_pages("training.language.train")
    torch.set_num_threads(options.threads)
    prepare(options.cache, options.data)
    if options.steps is None:
        options.steps = STEPS[options.model]
    if options.decay is None:
        options.decay = DECAY[options.model]
    if options.induction is None:
        options.induction = INDUCTION_STEP[options.model]
    names = ("model", "steps", "decay", "batch", "length", "peak", "seed", "induction")
    settings = Settings(**{name: getattr(options, name) for name in names}, practice=PRACTICE_STEPS[options.model])
    train(settings, options.cache, options.out or Path("runs") / options.model, compiled=not options.eager)


if __name__ == "__main__":
    main()
