"""mambascope beside TransformerLens: do the maps agree, how long do they take, and how much memory?

    make peer          # sets up an environment for TransformerLens and writes docs/peer.md
    python -m benchmarks.peer_maps --peer PYTHON [--lengths 64 128] [--width 768] [--repeats 3] [--out PAGE]

Both read the same stock model of one to three layers with random weights, each in an environment of its own: the peer's
maps need a release of transformers below 5.15, ours one from 5.15 on. Compared is what both call the matrix of a scan:
every channel's (Mamba-1) or every head's (Mamba-2), with the time step and without D x. Every case runs in a process of
its own. Seconds are the median of some runs; memory is the largest growth of the process while the matrices are made. A
layer of Qwen3-Next is held to its recurrence in float64 instead, since the peer says of its own matrix that it is a
heuristic: the error is ‖M v - o‖ / ‖o‖ over all heads and targets.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from einops import rearrange

from benchmarks.measuring import measured

PACKAGES = {"ours": "mambascope", "peer": "transformer_lens"}
VOCABULARY = 512
#: Seconds after which a case has failed.
LONGEST = 600


def families(width: int) -> dict[str, tuple[type, dict[str, Any], int]]:
    """Return the configuration of every family at a width, and the number of the layer that is looked at."""
    size = {"vocab_size": VOCABULARY, "hidden_size": width, "pad_token_id": 0, "tie_word_embeddings": False}
    attention = {"num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 64}
    heads = {"mamba_n_heads": width // 32, "mamba_d_head": 64, "mamba_n_groups": 1, "mamba_d_state": 128}
    delta = {"linear_num_key_heads": 4, "linear_num_value_heads": 8, "num_experts": 0, "head_dim": 32}
    return {
        "Mamba": (transformers.MambaConfig, size | {"num_hidden_layers": 1, "state_size": 16}, 0),
        "Mamba-2": (
            transformers.Mamba2Config,
            size | {"num_hidden_layers": 1, "num_heads": width // 32, "head_dim": 64, "n_groups": 1, "state_size": 128},
            0,
        ),
        "Jamba": (
            transformers.JambaConfig,
            size
            | attention
            | {"num_hidden_layers": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 1}
            | {"use_mamba_kernels": False, "mamba_d_state": 16},
            0,
        ),
        "Bamba": (
            transformers.BambaConfig,
            size | attention | heads | {"num_hidden_layers": 2, "attn_layer_indices": [1]},
            0,
        ),
        "Zamba2": (
            transformers.Zamba2Config,
            size
            | {"num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "mamba"], "num_mem_blocks": 1}
            | {"num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 64}
            | {"n_mamba_heads": width // 32, "mamba_ngroups": 1, "mamba_d_state": 128, "use_mamba_kernels": False}
            | {"attention_head_dim": width // 4, "attention_hidden_size": 2 * width, "adapter_rank": 8},
            0,
        ),
        "Qwen3-Next": (
            transformers.Qwen3NextConfig,
            size | attention | delta | {"num_hidden_layers": 1, "layer_types": ["linear_attention"]},
            0,
        ),
    }


def stock(family: str, width: int, weights: Path) -> Any:
    """Return a small stock model, with the weights of a file, which is written if it does not exist."""
    kind, options, _ = families(width)[family]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(kind(**options), attn_implementation="eager").eval()
    if weights.exists():
        model.load_state_dict(torch.load(weights, weights_only=True))
        return model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and not name.endswith(("A_log", "conv1d.weight")):
                parameter.normal_(0, 0.4 if family == "Qwen3-Next" else parameter.shape[-1] ** -0.5)
    torch.save(model.state_dict(), weights)
    return model


def ours(model: Any, ids: torch.Tensor, layer: int) -> tuple[Any, Any]:
    """Return two calls: the run, and from what it returns the matrices."""
    import mambascope

    def matrices(trace: Any) -> torch.Tensor:
        found: torch.Tensor = mambascope.methods.hidden_attention(trace, layer)
        return found

    return lambda: mambascope.capture(model, input_ids=ids), matrices


def peer(model: Any, ids: torch.Tensor, layer: int) -> tuple[Any, Any]:
    """Return the same two calls of TransformerLens."""
    from transformer_lens.model_bridge.sources.transformers.source import boot

    model.config.architectures = [type(model).__name__]  # the peer tells by it what the model is
    bridge = boot("local/model", hf_model=model, tokenizer=tokenizer(), device="cpu")
    mixers = (part for part in bridge.blocks[layer].modules() if hasattr(type(part), "compute_effective_attention"))
    mixer = next(mixers)
    delta = "GatedDelta" in type(mixer).__name__

    def run() -> Any:
        return bridge.run_with_cache(ids, use_cache=False)[1]

    def matrices(cache: Any) -> torch.Tensor:
        options = {} if delta else {"include_dt_scaling": True}
        found: torch.Tensor = mixer.compute_effective_attention(cache, layer, **options)
        return found

    return run, matrices


def tokenizer() -> Any:
    """Return a tokenizer of the right size, which is not used."""
    import tokenizers

    words = {f"w{number}": number for number in range(VOCABULARY)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="w0", pad_token="w0", eos_token="w1")


def case(side: str, family: str, length: int, width: int, repeats: int, threads: int, out: Path) -> None:
    """Run one case in this process; write the matrices, seconds and bytes."""
    torch.set_num_threads(threads)
    model, layer = stock(family, width, out / "weights.pt"), families(width)[family][2]
    ids = torch.randint(1, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(1))
    values: dict[str, torch.Tensor] = {}
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        run, matrices = {"ours": ours, "peer": peer}[side](model, ids, layer)
        runs, maps = [], []
        for _ in range(repeats):
            kept, seconds, _ = measured(run)
            runs.append(seconds)
            found, seconds, growth = measured(lambda kept=kept: matrices(kept))
            maps.append((seconds, growth))
        if side == "ours" and family == "Qwen3-Next":
            from benchmarks.delta_map import recurrence

            operator = kept.operator(layer)
            v = operator.slope * operator.preactivation
            values = {"v": v, "o": recurrence(operator.scan, v)}
    torch.save({"maps": found, **values}, out / f"{side}.pt")
    figures = {
        "run": statistics.median(runs),
        "map": statistics.median(seconds for seconds, _ in maps),
        "growth": max(growth for _, growth in maps) / 2**20,
        "package": f"{PACKAGES[side]} {importlib.metadata.version(PACKAGES[side])}",
        "transformers": transformers.__version__,
    }
    (out / f"{side}.json").write_text(json.dumps(figures))


def in_a_process(side: str, family: str, length: int, out: Path, options: argparse.Namespace) -> dict[str, Any] | None:
    """Run a case in a process of its own, and return its figures, or None if it did not end well."""
    given = (side, family, length, options.width, options.repeats, options.threads, str(out))
    python = sys.executable if side == "ours" else options.peer
    command = [python, "-m", "benchmarks.peer_maps", "--case", json.dumps(given)]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=offline, timeout=LONGEST)
    if ended.returncode:
        print(f"{family}, {length} tokens, {side}: {ended.stderr.strip().splitlines()[-1][:200]}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads((out / f"{side}.json").read_text())
    return found


def error(maps: torch.Tensor, v: torch.Tensor, o: torch.Tensor) -> float:
    """Return ‖M v - o‖ / ‖o‖, with matrices (1, H, L, L)."""
    values = rearrange(v, "b L (h p) -> b h L p", h=maps.shape[1]).double()
    mixed = rearrange(maps.double() @ values, "b h L p -> b L h p")
    return float((mixed - o).norm() / o.norm())


def compared(family: str, length: int, options: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Return a family's line of the table at a length, and the figures of those sides that ran."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        figures = {side: in_a_process(side, family, length, out, options) for side in PACKAGES}
        held = {side: torch.load(out / f"{side}.pt") for side, found in figures.items() if found}
    found = [one for one in figures.values() if one]
    if len(found) < len(figures):
        return f"| {family} | {length} | one of them failed |" + " |" * 7, found
    a, b = held["ours"]["maps"], held["peer"]["maps"]
    if "o" in held["ours"]:
        v, o = held["ours"]["v"], held["ours"]["o"]
        agreement = f"error of ours {error(a, v, o):.1e}, of the peer's {error(b, v, o):.2f}"
    else:
        agreement = f"differ by {float((a - b).abs().max() / a.abs().max()):.1e} of the largest entry"
    cells = [form.format(one[name]) for name, form in FORMS.items() for one in found]
    ratio = found[1]["map"] / found[0]["map"]
    return f"| {family} | {length} | {agreement} | {' | '.join(cells)} | {ratio:.1f} |", found


#: How each figure is written.
FORMS = {"run": "{:.3f}", "map": "{:.3f}", "growth": "{:.0f}"}

DESCRIPTION = (__doc__ or "").split("\n\n")[-1].strip()

PAGE = """# Maps beside TransformerLens

Made by `make peer`; do not edit.

{doc}

{versions}; torch {torch} on both sides, {threads}
thread(s), width {width}. Seconds of the run that keeps what the matrices need, then seconds and MiB for the matrices
themselves. The last column is the peer's seconds for them over ours.

| model | tokens | the two matrices | run, ours | run, peer | maps, ours | maps, peer | MiB, ours | MiB, peer | ratio |
| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
{lines}

Zamba2 sets a lower limit to its time step, which the peer's matrix leaves out. For Qwen3-Next its matrix takes q and k
before they are normalised, which is most of its error; leaving out that a key removes what it held costs 3 % to 250 %
by itself (`python -m benchmarks.delta_map`).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--families", nargs="+", default=list(families(64)))
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer", help="the Python of an environment that has TransformerLens")
    parser.add_argument("--out", type=Path, help="write the page here instead of printing it")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    if options.case:
        *given, out = json.loads(options.case)
        case(*given, Path(out))
        return
    if options.peer is None:
        parser.error("--peer names the Python of an environment that has TransformerLens")
    lines: list[str] = []
    versions: dict[str, str] = {}
    for family in options.families:
        for length in options.lengths:
            line, found = compared(family, length, options)
            versions |= {side["package"]: side["transformers"] for side in found}
            lines.append(line)
            print(line, file=sys.stderr, flush=True)
    page = PAGE.format(
        doc=DESCRIPTION,
        versions=" beside ".join(f"{name} with transformers {release}" for name, release in versions.items()),
        torch=torch.__version__.split("+")[0],
        threads=options.threads,
        width=options.width,
        lines="\n".join(lines),
    )
    if options.out:
        options.out.write_text(page, encoding="utf-8")
    else:
        print(page)


if __name__ == "__main__":
    main()
