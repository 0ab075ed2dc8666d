"""What a run says about itself: one line on the screen, and two tables of numbers on disk."""

from __future__ import annotations

import csv
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live

from training.running.loss import bits_per_byte

if TYPE_CHECKING:
    from training.language.train import Settings
    from training.running.checkpoint import Progress


class ProgressLine:
    """Averages the loss between reports; a terminal sees one line renewed, a file a line per report."""

    def __init__(self, settings: Settings, out: Path, progress: Progress, bytes_per_token: float) -> None:
        self.settings, self.progress, self.bytes_per_token = settings, progress, bytes_per_token
        self.curve, self.validation = out / "curve.csv", out / "validation.csv"
        self.console = Console(soft_wrap=True)
        self.live = Live(console=self.console, auto_refresh=False)
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.rate, self.last_seconds, self.last_validation = 0.0, progress.seconds, ""
        trim(self.curve, progress.step, ("step", "tokens", "seconds", "loss", "bits_per_byte", "rate", "norm"))
        trim(self.validation, progress.step, ("step", "tokens", "loss", "bits_per_byte"))

    def __enter__(self) -> ProgressLine:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.live.stop()

    @property
    def tokens(self) -> int:
        return self.progress.step * self.settings.batch * self.settings.length

    def add(self, loss: float, norm: float, rate: float) -> None:
        self.losses.append(loss)
        self.norms.append(norm)
        self.rate = rate

    def report(self) -> None:
        """Write the means since the last report."""
        loss, norm = sum(self.losses) / len(self.losses), sum(self.norms) / len(self.norms)
        bits = bits_per_byte(loss, self.bytes_per_token)
        step, seconds = self.progress.step, self.progress.seconds
        per_step = (seconds - self.last_seconds) / len(self.losses)
        speed = self.settings.batch * self.settings.length / per_step
        left = per_step * (self.settings.steps - step) / 60
        append(
            self.curve,
            (step, self.tokens, f"{seconds:.1f}", f"{loss:.4f}", f"{bits:.4f}", f"{self.rate:.6f}", f"{norm:.3f}"),
        )
        message = (
            f"{self.settings.model} step {step}/{self.settings.steps} loss {loss:.3f} ({bits:.3f} bits/byte) "
            f"norm {norm:.2f} {speed:,.0f} tokens/s, {left:.0f} min left{self.last_validation}"
        )
        if self.console.is_terminal:
            self.live.update(message, refresh=True)
        else:
            print(message, flush=True)
        self.losses, self.norms, self.last_seconds = [], [], seconds

    def validated(self, loss: float, bits: float) -> None:
        """Record a validation."""
        append(self.validation, (self.progress.step, self.tokens, f"{loss:.4f}", f"{bits:.4f}"))
        self.last_validation = f" | held out {bits:.3f}"


def append(path: Path, values: tuple[object, ...]) -> None:
    with path.open("a", newline="") as file:
        csv.writer(file).writerow(values)


def trim(path: Path, step: int, header: tuple[str, ...]) -> None:
    """Start the table, or drop the rows that come after the checkpoint that a run goes on from."""
    kept = []
    if path.exists() and step:
        with path.open(newline="") as file:
            kept = [row for row in list(csv.reader(file))[1:] if int(row[0]) <= step]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *kept])
