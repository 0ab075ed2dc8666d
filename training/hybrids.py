"""Train the two tiny hybrids: `python -m training.hybrids tiny-hybrid`, or `tiny-delta-hybrid`.

A row is text of the novels in which sentences "The secret of the doctor is 47192." stand between the text's own, with
the same sentences again at its end, in another order. The loss is on the novels' text, and on the number that follows a
question. The sentences themselves are not learnt: a model should not tell secrets unasked. To look numbers up is learnt
from short rows with hardly any text, on which little of the loss is; then rows grow, and half of them are plain text.

The same command goes on from the last checkpoint. What each model was started from is in `start`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import BambaConfig, PretrainedConfig, PreTrainedModel, Qwen3_5TextConfig
from transformers.models.bamba import BambaForCausalLM
from transformers.models.qwen3_5 import Qwen3_5ForCausalLM

from training.language.corpus import data_folder
from training.retrieval import Haystack, Needles, found, haystacks
from training.running.allocator import keep_pages
from training.running.bundled_start import bundled
from training.running.loop import Batch, Reporting, Settings, train
from training.running.loss import bits_per_byte, token_losses
from training.running.scans import fast_scans

NAMES = ("tiny-hybrid", "tiny-delta-hybrid")
#: The bundled model from which the hybrids have their tokens' embeddings, and tiny-hybrid its Mamba-2 layers.
ORIGIN = "tiny-mamba2"
#: Which of its layers become which of tiny-hybrid's. Its layer 1, which was started as an induction head, is left out.
LAYERS = {0: 0, 2: 1, 3: 3, 4: 4}
#: The layer of attention.
ATTENTION = 2

#: How much of what a head of attention reads it writes at first.
COPIED = 0.5

#: How likely it is that a row has one needle, two, and so on.
NEEDLES = (0.4, 0.3, 0.15, 0.15)
#: Tokens of the longest rows at first and in the end.
SHORT, LONG = 96, 512
#: Least tokens of a row once rows grow, and of a novel in a row with needles.
LEAST, LEAST_HAY = 64, 8
#: How much the text of a step weighs before rows grow; all its answers together weigh 1, and so does text later.
EARLY_TEXT = 0.1
#: Numbers of needles and lengths of rows that are measured on the way.
MEASURED = ((1, 128), (2, 256), (4, 512))
#: Held-out rows of this length that are measured on the way, and bytes to a token of the held-out novels.
TEXT_ROWS, BYTES_PER_TOKEN = (16, 512), 3_025_032 / 946_652
#: How long each is trained, for how many of these steps the rate falls, from which step to which rows grow, and from
#: which to which they are short again: with the first of these alone, tiny-hybrid did not tell several secrets apart.
STEPS = {"tiny-hybrid": 863, "tiny-delta-hybrid": 1050}
DECAY = {"tiny-hybrid": 90, "tiny-delta-hybrid": 200}
GROW = {"tiny-hybrid": (340, 650), "tiny-delta-hybrid": (427, 900)}
AGAIN = {"tiny-hybrid": (633, 773), "tiny-delta-hybrid": (0, 0)}


def configuration(name: str, vocabulary: int, **sizes: Any) -> PretrainedConfig:
    """Return the configuration of a hybrid; `sizes` replaces some of its sizes (for tests)."""
    shared = {
        "vocab_size": vocabulary,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
        "max_position_embeddings": 4096,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    if name == "tiny-hybrid":
        size = {"num_hidden_layers": 5, "attn_layer_indices": [ATTENTION], "intermediate_size": 96}
        size |= {"mamba_n_heads": 8, "mamba_d_head": 64, "mamba_d_state": 64, "mamba_chunk_size": 64}
        return BambaConfig(**shared | size | sizes)
    if name == "tiny-delta-hybrid":
        kinds = ["full_attention" if layer == ATTENTION else "linear_attention" for layer in range(4)]
        size = {"num_hidden_layers": 4, "layer_types": kinds, "intermediate_size": 256, "head_dim": 64}
        size |= {"linear_num_key_heads": 4, "linear_num_value_heads": 4}
        size |= {"linear_key_head_dim": 32, "linear_value_head_dim": 64}
        return Qwen3_5TextConfig(**shared | size | sizes)
    raise ValueError(f"The model is called {name!r}, which is none of {', '.join(NAMES)}.")


def build(config: PretrainedConfig) -> PreTrainedModel:
    """Return a freshly initialised model; seed torch before."""
    return (BambaForCausalLM if config.model_type == "bamba" else Qwen3_5ForCausalLM)(config)


@torch.no_grad()
def start(model: PreTrainedModel, origin: PreTrainedModel) -> None:
    """Give a fresh hybrid, in place, what it has from a trained Mamba-2 model of the same width.

    Both have its embeddings and its last norm. The Bamba has its Mamba-2 layers too, as `LAYERS` says, and its MLPs
    answer zero at first; attention and MLPs are learnt from nothing, as are all layers of the Qwen3.5, but for this:
    what attention brings from a token, it adds to the stream as it read it there (`start_copying`).
    """
    body, source = model.base_model, origin.backbone
    body.get_input_embeddings().weight.copy_(source.embeddings.weight)
    if model.config.model_type == "bamba":
        body.final_layernorm.weight.copy_(source.norm_f.weight)
        for theirs, ours in LAYERS.items():
            layer = body.layers[ours]
            layer.input_layernorm.load_state_dict(source.layers[theirs].norm.state_dict())
            layer.mamba.load_state_dict(source.layers[theirs].mixer.state_dict())
        for layer in body.layers:
            layer.feed_forward.down_proj.weight.zero_()
    else:
        body.norm.weight.copy_(source.norm_f.weight - 1)
    start_copying(body.layers[ATTENTION].self_attn)


@torch.no_grad()
def start_copying(attention: nn.Module) -> None:
    """Start a fresh attention layer, in place, so that it writes what it reads; where it looks is not touched.

    Every value head reads a part of the stream of its own, and the output matrix is the values' transpose: half of
    "mimetic initialization" (A. Trockman and J. Z. Kolter. Mimetic initialization of self-attention layers. 2023).
    """
    values, out = attention.v_proj.weight, attention.o_proj.weight
    nn.init.orthogonal_(values)
    heads = values.view(-1, attention.head_dim, values.shape[1]).repeat_interleave(
        attention.num_key_value_groups, dim=0
    )
    out.copy_(COPIED * heads.flatten(0, 1).t())


class HybridTask:
    """Batches over training novels, the batch of a step a function of (seed, step) alone; figures on held-out ones.

    Rows are of at most SHORT tokens until step `grow[0]` and of at most LONG from step `grow[1]` on, but for steps
    `again[0]` to `again[1]`, which are as the first ones and have two needles or more to a row.
    """

    def __init__(
        self,
        training: Haystack,
        held_out: Haystack,
        tokens: int,
        seed: int,
        grow: tuple[int, int] = (0, 0),
        again: tuple[int, int] = (0, 0),
    ) -> None:
        self.training, self.held_out, self.tokens, self.seed = training, held_out, tokens, seed
        self.grow, self.again = grow, again

    def is_early(self, step: int) -> bool:
        """Return whether a step is of short rows with needles alone."""
        return step < self.grow[0] or self.again[0] <= step < self.again[1]

    def longest(self, step: int) -> int:
        """Return the most tokens that a row of a step may have."""
        begins, ends = self.grow
        if self.is_early(step):
            return SHORT
        grown = 1.0 if step >= ends else max(0.0, (step - begins) / max(1, ends - begins))
        return int(SHORT * (LONG / SHORT) ** grown)

    def step(self, step: int) -> Batch:
        """Return the batch of one step: rows with needles, and as many plain ones, or one less, once rows grow."""
        rng = np.random.default_rng((self.seed, step))
        growing = not self.is_early(step)
        needles = 1 + int(rng.choice(len(NEEDLES), p=NEEDLES))
        if not growing and step >= self.grow[0]:
            needles = max(2, needles)
        least = max(LEAST if growing else 0, 2 * needles * self.training.sentence_size + LEAST_HAY)
        length = int(np.exp(rng.uniform(*np.log((least, max(least, self.longest(step)))))))
        count = max(2, self.tokens // length)
        plain = self.training.plain(rng, count // 2 if growing else 0, length)
        asked = self.training.needles(rng, count - len(plain), length, needles)
        text, answers = learnt(asked, self.training.sentence_size)
        text = np.concatenate([text, np.ones_like(plain[:, 1:], bool)])
        answers = np.concatenate([answers, np.zeros_like(plain[:, 1:], bool)])
        weights = text / text.sum() * (1 if growing else EARLY_TEXT) + answers / answers.sum()
        return Batch(torch.from_numpy(np.concatenate([asked.rows, plain])), torch.from_numpy(weights))

    def validate(self, model: PreTrainedModel) -> dict[str, float]:
        """Return bits per byte of plain text, and the share of first questions answered right in several settings."""
        found_in = {f"{n}_in_{L}": found(model, self.held_out, L, n, 32) for n, L in MEASURED}
        return {"bits_per_byte": text_bits(model, self.held_out)} | found_in


def learnt(needles: Needles, size: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which tokens 1, 2, … of the rows are the novel's and which answer a question, (b, L - 1) each.

    `size` is how many tokens a needle has. An answer is the space before the number, its digits, and the full stop.
    """
    text, answers = (np.full(needles.rows.shape, value) for value in (True, False))
    for row, (values, asked) in enumerate(zip(needles.values, needles.asked, strict=True)):
        for digits in (*values, *asked):
            text[row, digits[-1] + 2 - size : digits[-1] + 2] = False
        for digits in asked:
            answers[row, digits[0] - 1 : digits[-1] + 2] = True
    return text[:, 1:], answers[:, 1:]


@torch.no_grad()
def text_bits(model: PreTrainedModel, haystack: Haystack) -> float:
    """Return the bits per byte of a fixed sample of plain rows."""
    count, length = TEXT_ROWS
    rows = torch.from_numpy(haystack.plain(np.random.default_rng(778), count, min(length, len(haystack.text) - 1)))
    with fast_scans():
        losses: list[Tensor] = [token_losses(model, part) for part in rows.split(8)]
    return bits_per_byte(float(torch.cat(losses).mean()), BYTES_PER_TOKEN)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", choices=NAMES)
    parser.add_argument("--steps", type=int, help="default: the model's own")
    parser.add_argument("--decay", type=int, help="likewise")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens to a step")
    parser.add_argument("--grow", type=int, nargs=2, help="rows grow from this step to that (default: the model's own)")
    parser.add_argument("--again", type=int, nargs=2, help="they are short again from this step to that (likewise)")
    parser.add_argument("--peak", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, help="the data folder (MAMBASCOPE_DATA), or a folder of .txt files")
    parser.add_argument("--cache", type=Path, default=Path("runs/retrieval-data"), help="the novels as tokens")
    parser.add_argument("--out", type=Path, help="default: runs/MODEL")
    options = parser.parse_args()
    keep_pages("training.hybrids")
    torch.set_num_threads(options.threads)
    steps, grow = options.steps or STEPS[options.model], tuple(options.grow or GROW[options.model])
    again = tuple(options.again or AGAIN[options.model])
    origin, tokenizer = bundled(ORIGIN)
    texts = haystacks(options.cache, data_folder(options.data), tokenizer)
    torch.manual_seed(options.seed)
    model = build(configuration(options.model, len(tokenizer)))
    start(model, origin)
    settings = Settings(
        task=options.model,
        architecture={"hybrid": options.model},
        steps=steps,
        decay=options.decay or DECAY[options.model],
        peak=options.peak,
        seed=options.seed,
        batches={"tokens": options.tokens, "grow": list(grow), "again": list(again)},
    )
    training, held_out = (Haystack(texts[name], tokenizer) for name in ("training", "held-out"))
    task = HybridTask(training, held_out, options.tokens, options.seed, grow, again)
    # Rows have hundreds of lengths, and compiling for each would take longer than it saves.
    train(
        settings,
        model,
        task,
        options.out or Path("runs") / options.model,
        Reporting(log_steps=20, validation_steps=200),
    )


if __name__ == "__main__":
    main()
