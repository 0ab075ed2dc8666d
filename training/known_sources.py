"""Tiny models of stock classes, trained on two tasks of which it is known what each answer comes from.

    python -m training.known_sources [--task induction] [--architecture mamba] [--seed 0]

A text is a body and then questions, each with its answer, which alone are learnt. In `induction` the body is different
symbols, a question one of them, and its answer the symbol that followed it. In `recall` the body is assignments of
different keys among fillers (`b=3` is one token), a question asks for a key (`b?`), and its answer is the value. What
is judged is the first question of texts that a model has not seen. It is trained until it answers nearly all of them.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    Qwen3_5TextConfig,
)
from transformers.models.qwen3_5 import Qwen3_5ForCausalLM

from training.running.allocator import keep_pages
from training.running.loop import Batch, masked_loss
from training.running.scans import fast_scans

#: Tokens of the body of a text, at first and in the end, and questions of a text that is learnt from.
SHORT, LONG, QUESTIONS = 4, 12, 5
#: Texts to a step, steps between checks, and steps after which a model is given up.
ROWS, EVERY, MOST = 32, 100, 3000
#: Texts of a check, and of one that counts.
CHECKED, COUNTED = 500, 2000
#: The share of right answers at which training ends.
ENOUGH = 0.995
#: Least and largest step of a delta net's decay at first.
STEP = (0.001, 0.1)
#: The rate, the steps in which it rises, and its factor once a check has found this share of right answers.
RATE, WARMUP, SLOWER, NEARLY = 5e-3, 50, 0.3, 0.95


@dataclass(frozen=True)
class Texts:
    """Texts with their questions.

    Attributes:
        rows: Token ids, (b, body + 2 · questions).
        sources: The position in the body of each question's source, (b, questions).
        guides: The position of what leads to it, or -1 where nothing but the question does, (b, questions).
        body: How many tokens the body has.
    """

    rows: NDArray[np.int64]
    sources: NDArray[np.int64]
    guides: NDArray[np.int64]
    body: int

    @property
    def batch(self) -> Batch:
        """The texts as a step learns them: the answers alone."""
        learnt = torch.zeros(len(self.rows), self.rows.shape[1] - 1, dtype=torch.bool)
        learnt[:, self.body :: 2] = True
        return Batch(torch.from_numpy(self.rows), learnt)


class KnownSources(Protocol):
    """A task."""

    name: str
    vocabulary: int

    def texts(self, rng: np.random.Generator, count: int, body: int, questions: int) -> Texts:
        """Return texts of this many tokens in their body, and of this many questions."""


@dataclass(frozen=True)
class Induction:
    """What followed this symbol before? No question is the answer of another."""

    name: str = "induction"
    vocabulary: int = 24

    def texts(self, rng: np.random.Generator, count: int, body: int, questions: int) -> Texts:
        symbols = rng.random((count, self.vocabulary)).argsort(axis=1)[:, :body]
        pairs = rng.random((count, (body - 1) // 2)).argsort(axis=1)[:, :questions]
        asked = 2 * pairs + rng.integers(1 + (body - 1) % 2, size=(count, 1))
        return _joined(symbols, np.take_along_axis(symbols, asked, 1), np.take_along_axis(symbols, asked + 1, 1), asked)


@dataclass(frozen=True)
class Recall:
    """What is the value of this key, which was assigned once among others?"""

    name: str = "recall"
    keys: int = 8
    values: int = 8
    fillers: int = 4

    @property
    def vocabulary(self) -> int:
        """Assignments first, then questions, values and fillers."""
        return self.keys * self.values + self.keys + self.values + self.fillers

    def texts(self, rng: np.random.Generator, count: int, body: int, questions: int) -> Texts:
        assigned = min(self.keys, max(questions, body // 2))
        first_value = self.keys * self.values + self.keys
        keys = rng.random((count, self.keys)).argsort(axis=1)[:, :assigned]
        values = rng.integers(self.values, size=(count, assigned))
        places = rng.random((count, body)).argsort(axis=1)[:, :assigned]
        filled = first_value + self.values + rng.integers(self.fillers, size=(count, body))
        np.put_along_axis(filled, places, keys * self.values + values, 1)
        asked = slice(questions)
        texts = _joined(
            filled, self.keys * self.values + keys[:, asked], first_value + values[:, asked], places[:, asked]
        )
        return Texts(texts.rows, places[:, asked], np.full_like(texts.guides, -1), body)


def _joined(
    body: NDArray[np.int64], asked: NDArray[np.int64], answers: NDArray[np.int64], guides: NDArray[np.int64]
) -> Texts:
    """Return texts whose sources follow their guides."""
    pairs = np.stack([asked, answers], axis=-1).reshape(len(body), -1)
    return Texts(np.concatenate([body, pairs], axis=1), guides + 1, guides, body.shape[1])


TASKS: Mapping[str, KnownSources] = {task.name: task for task in (Induction(), Recall())}
ARCHITECTURES = ("mamba", "mamba2", "delta", "softmax")


def build(architecture: str, vocabulary: int) -> PreTrainedModel:
    """Return a freshly initialised model of two layers; seed torch before."""
    shared: dict[str, Any] = {"vocab_size": vocabulary, "hidden_size": 48, "num_hidden_layers": 2, "use_cache": False}
    shared |= {"initializer_range": 0.1}
    shared |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")) | {"tie_word_embeddings": False}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 24, "intermediate_size": 96}
    if architecture == "mamba":
        return MambaForCausalLM(MambaConfig(**shared, state_size=16, expand=2, time_step_rank=3))
    if architecture == "mamba2":
        size = {"num_heads": 6, "head_dim": 16, "state_size": 32, "n_groups": 1, "expand": 2, "chunk_size": 32}
        return Mamba2ForCausalLM(Mamba2Config(**shared, **size))
    if architecture == "delta":
        size = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 24}
        kinds = {"layer_types": ["linear_attention"] * 2, "linear_value_head_dim": 24}
        model = Qwen3_5ForCausalLM(Qwen3_5TextConfig(**shared, **heads, **size, **kinds))
        for (
            layer
        ) in model.model.layers:  # as the kernels' authors start it; the class forgets all at each token at first
            step = torch.empty_like(layer.linear_attn.dt_bias).uniform_(*map(math.log, STEP)).exp()
            layer.linear_attn.dt_bias.data = step + torch.log(-torch.expm1(-step))
        return model
    if architecture == "softmax":
        return LlamaForCausalLM(LlamaConfig(**shared, **heads))
    raise ValueError(f"The architecture is {architecture!r}, which is none of {', '.join(ARCHITECTURES)}.")


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        model: The model, in eval mode, without gradients.
        accuracy: Its share of right answers to the first question of texts of full length.
        steps: How many steps it took.
        seconds: How long.
    """

    model: PreTrainedModel
    accuracy: float
    steps: int
    seconds: float


def train(task: KnownSources, architecture: str, seed: int, most: int = MOST) -> Trained:
    """Return a model that was trained until it answers nearly all questions, or for `most` steps.

    The seed decides its first weights and its texts. The bodies of texts are of any length up to the longest, so that
    short ones are learnt first.
    """
    began = time.process_time()
    torch.manual_seed(seed)
    rng = np.random.default_rng((seed, ARCHITECTURES.index(architecture)))
    model = build(architecture, task.vocabulary).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, betas=(0.9, 0.98), fused=True)
    right = 0.0
    for step in range(1, most + 1):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, step / WARMUP) * (SLOWER if right >= NEARLY else 1.0)
        body = int(rng.integers(SHORT, LONG + 1))
        questions = min(QUESTIONS, (body - 1) // 2)
        with fast_scans():
            loss = masked_loss(model, task.texts(rng, ROWS, body, questions).batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % EVERY == 0:
            right = accuracy(model, task, (seed, step), CHECKED)
            if right >= ENOUGH and accuracy(model, task, (seed, step), COUNTED) >= ENOUGH:
                break
    model.eval().requires_grad_(False)
    return Trained(model, accuracy(model, task, (seed, 0), COUNTED), step, time.process_time() - began)


@torch.no_grad()
def accuracy(model: PreTrainedModel, task: KnownSources, seed: tuple[int, int], count: int) -> float:
    """Return the share of right answers to the first question of fresh texts."""
    texts = task.texts(np.random.default_rng((*seed, 777)), count, LONG, 1)
    rows = torch.from_numpy(texts.rows)
    with fast_scans():
        logits = model.lm_head(model.base_model(rows[:, :-1], use_cache=False)[0][:, -1])
    return float((logits.argmax(-1) == rows[:, -1]).float().mean())


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", choices=list(TASKS), nargs="+", default=list(TASKS))
    parser.add_argument("--architecture", choices=ARCHITECTURES, nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    keep_pages("training.known_sources")
    torch.set_num_threads(1)
    for task in options.task:
        for architecture in options.architecture:
            for seed in options.seed:
                found = train(TASKS[task], architecture, seed)
                print(
                    f"{task} {architecture} seed {seed}: {found.accuracy:.1%} right after {found.steps} steps, "
                    f"{found.seconds:.0f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
