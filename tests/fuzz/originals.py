"""Good models and good files, made once by calling the library, and kept in memory."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import gzip
import io
import json
import struct
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
import transformers
from PIL import Image

import mambascope
import toy_task
from hybrids import HYBRIDS, hybrid_model
from mambascope.evaluate.run import run
from models import CONFIGS, TRANSFORMERS, stock_model, stock_transformer
from picture_checkpoints import PROCESSOR, saved, vim, vit
from small_staged_models import small
from small_tokenizers import byte_level, word_pieces

from .mutation import packed, unpacked

Files = dict[str, bytes]

#: Models that read text, whose positions see only those before them.
CAUSAL = (*CONFIGS, *(name for name in TRANSFORMERS if name not in ("bert", "vit")), *HYBRIDS)
TEXT = (*CAUSAL, "bert", "mamba without head")
PICTURE = ("vit", "vim", "vmamba", "mambavision")


def model(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Return a small model and its tokenizer, or None for a model of pictures."""
    return _made(name) if dtype == torch.float32 else _converted(name, dtype)


@functools.cache
def _converted(name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    made, tokenizer = _made(name)
    return copy.deepcopy(made).to(dtype), tokenizer


@functools.cache
def _made(name: str) -> tuple[Any, Any]:
    """Return a model whose weights are the same on every machine: the last bits of a random number are not."""
    made, tokenizer = _drawn(name)
    with torch.no_grad():
        for value in (*made.parameters(), *made.buffers()):
            if value.is_floating_point():
                value.copy_((value * 256).round() / 256)
    return made, tokenizer


def _drawn(name: str) -> tuple[Any, Any]:
    if name in CONFIGS:
        return stock_model(name, vocab_size=300), byte_level(merges=False)
    if name in HYBRIDS:
        options = {"use_cache": False} if name == "xlstm" else {}  # whose own pass with a cache fails at these sizes
        return hybrid_model(name, vocab_size=300, **options), byte_level(merges=False)
    if name == "mamba without head":
        return stock_model("mamba", vocab_size=300).backbone, byte_level(merges=False)
    if name == "bert":
        return stock_transformer("bert"), word_pieces()
    if name in PICTURE:
        made = vit() if name == "vit" else vim() if name == "vim" else _staged(name)
        return made.requires_grad_(False), None
    return stock_transformer(name, vocab_size=300), byte_level(merges=False)


def _staged(name: str) -> Any:
    made = small(name, torch.float32)
    kind, config = type(made), made.config.to_dict()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        of_colours = kind(type(made.config).from_dict(config | {"num_channels": 3, "image_size": 32})).eval()
        with torch.no_grad():
            for parameter_name, parameter in of_colours.named_parameters():
                parameter.normal_(1 if "norm" in parameter_name and parameter_name.endswith("weight") else 0, 0.4)
    return of_colours


def contents(folder: Path) -> Files:
    """Return the content of every file in a folder, by its path there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@functools.cache
def checkpoint(name: str) -> Files:
    """Return the files of a checkpoint folder as transformers writes it."""
    found, tokenizer = model(name)
    with tempfile.TemporaryDirectory() as folder:
        if tokenizer is None:
            saved(found, Path(folder), PROCESSOR)
        else:
            found.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return contents(Path(folder))


@functools.cache
def sharded() -> Files:
    """Return a checkpoint whose weights are in several files, with an index."""
    found, tokenizer = model("mamba")
    with tempfile.TemporaryDirectory() as folder:
        found.save_pretrained(folder, max_shard_size="10KB")
        tokenizer.save_pretrained(folder)
        return contents(Path(folder))


def pickled(held: Any) -> bytes:
    """Return a file as torch.save writes it, packed as damaged ones are, so that a change of it is small."""
    file = io.BytesIO()
    torch.save(held, file)
    return packed(unpacked(file.getvalue()))


@functools.cache
def pickled_checkpoint() -> Files:
    """Return a checkpoint whose weights are in pytorch_model.bin."""
    files = {name: content for name, content in checkpoint("mamba").items() if not name.endswith(".safetensors")}
    return files | {"pytorch_model.bin": pickled(dict(model("mamba")[0].state_dict()))}


@functools.cache
def mamba_ssm() -> Files:
    """Return a checkpoint in the layout of the package mamba_ssm."""
    size = {"d_model": 12, "n_layer": 2, "vocab_size": 300, "ssm_cfg": {"layer": "Mamba1", "d_state": 3}}
    size |= {"rms_norm": True, "residual_in_fp32": False, "fused_add_norm": True, "pad_vocab_size_multiple": 4}
    state = stock_model("mamba", vocab_size=300, use_bias=False).state_dict()
    tensors = {name.replace("embeddings", "embedding"): value for name, value in state.items()}
    files = {name: content for name, content in checkpoint("mamba").items() if name.startswith("tokenizer")}
    return files | {"config.json": json.dumps(size).encode(), "pytorch_model.bin": pickled(tensors)}


@functools.cache
def released() -> dict[str, Files]:
    """Return files of Vim, VMamba and MambaVision as their authors release them."""
    of_vim = dict(model("vim")[0].state_dict())
    args = argparse.Namespace(model="vim_patch8_32_bimambav2_midclstok_div2", input_size=32)
    settings = {"depths": (1, 1, 2, 1), "hidden_sizes": (16, 32, 64, 128), "num_labels": 5, "gated": False}
    from mambascope.models.mambavision import MambaVision, MambaVisionConfig
    from mambascope.models.vmamba import VMamba, VMambaConfig

    with torch.random.fork_rng():
        torch.manual_seed(0)
        of_vmamba = VMamba(VMambaConfig(**settings)).state_dict()
        config = MambaVisionConfig(
            depths=(1, 1, 3, 2), hidden_size=16, stem_size=8, num_heads=(2, 4, 8, 16), num_labels=5
        )
        of_mambavision = MambaVision(config).state_dict()
    return {
        "vim": {"vim.pth": pickled({"model": of_vim, "epoch": 299, "args": args, "optimizer": {"state": {}}})},
        "vmamba": {"vmamba.pth": pickled({"model": dict(of_vmamba), "epoch": 1})},
        "mambavision": {
            "mambavision.pth": pickled(
                {"state_dict": {f"module.{key}": value for key, value in of_mambavision.items()}}
            )
        },
    }


@functools.cache
def pixels(side: int = 40) -> np.ndarray:
    """Return a picture, uint8 (side, side + 9, 3)."""
    return np.random.default_rng(0).integers(0, 256, (side, side + 9, 3), dtype=np.uint8)


@functools.cache
def picture_files() -> Files:
    """Return one picture in each format that Pillow writes here."""
    files = {}
    for kind in ("png", "jpeg", "tiff", "gif", "bmp", "webp", "ppm"):
        file = io.BytesIO()
        Image.fromarray(pixels()).save(file, kind)
        files[f"picture.{kind}"] = file.getvalue()
    for mode in ("L", "RGBA", "P", "1", "I;16", "CMYK", "LA", "F"):
        file = io.BytesIO()
        Image.fromarray(pixels()).convert("L" if mode == "I;16" else mode).convert(mode).save(
            file, "png" if mode not in ("CMYK", "F") else "tiff"
        )
        files[f"{mode.replace(';', '')}.{'png' if mode not in ('CMYK', 'F') else 'tiff'}"] = file.getvalue()
    return files


@functools.cache
def attributions() -> dict[str, Files]:
    """Return saved results: of a text, of several positions, of an answer's parts per layer, and of a picture."""
    text, tokenizer = model("mamba")
    results = {
        "text": mambascope.explain(text, tokenizer, "The cat sat", method="latim"),
        "rows": mambascope.explain(text, tokenizer, "The cat", method="hidden-attention", positions="all"),
        "generated": mambascope.explain(text, tokenizer, "The cat", method="mamba-lrp", generate=2),
        "parts": mambascope.explain(text, tokenizer, "The cat", method="alti-logit"),
        "picture": mambascope.explain(model("vim")[0], None, pixels(), method="mamba-lrp"),
    }
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, result in results.items():
            files[name] = {"result.safetensors": _fixed(result).save(Path(folder, f"{name}.safetensors")).read_bytes()}
    return files


def _fixed(result: mambascope.Attribution) -> mambascope.Attribution:
    """Return a result with numbers that are the same on every machine and in every run."""
    target = dataclasses.replace(
        result.target, next_tokens=tuple((name, round(p, 3)) for name, p in result.target.next_tokens), value=1.5
    )
    layers, scores = [1e-7] * len(result.axes["layer"]), (result.scores * 64).round() / 64
    terms = dict.fromkeys(("residual", "bias", "other", "constant"), 0.25)
    parts = {"terms": terms, "value": float(scores.sum()) + 1} if result.method == "alti-logit" else {}
    return dataclasses.replace(
        result,
        scores=scores,
        target=target,
        targets=tuple(dataclasses.replace(one, next_tokens=(), value=0.5) for one in result.targets),
        diagnostics={"reconstruction_error": 1e-7, "reconstruction_error_per_layer": layers, "seconds": 0.5} | parts,
        pixels=None if result.pixels is None else result.pixels.round(),
    )


TOY = {"load": toy_task.load, "fingerprint": toy_task.fingerprint}


@functools.cache
def run_folder() -> Files:
    """Return the files of a complete run of the toy task."""
    with tempfile.TemporaryDirectory() as folder:
        run(toy_task.ToyTask(count=9), None, toy_task.METHODS, Path(folder, "run"), **TOY)
        return contents(Path(folder, "run"))


def run_table(folder: Path) -> list[str]:
    """Return the rows of a run, as text."""
    from mambascope.evaluate.results import read_run

    return toy_task.rows(read_run(folder))


@functools.cache
def toy_rows() -> list[str]:
    """Return the rows that every run of the toy task must end with."""
    with tempfile.TemporaryDirectory() as folder:
        run(toy_task.ToyTask(count=9), None, toy_task.METHODS, Path(folder, "run"), **TOY)
        return run_table(Path(folder, "run"))


@functools.cache
def data_files() -> dict[str, Files]:
    """Return small files in each format of data that tasks read."""
    table = pandas.DataFrame({"label": [0, 1, 1], "text": ["a dull film", 'a "fine", odd one', "é 日本"]})
    parquet = io.BytesIO()
    table.to_parquet(parquet)
    english = "<s snum=0001> the house sleeps . </s>\n<s snum=0002> a b </s>\n"
    french = "<s snum=0001> la maison dort . </s>\n<s snum=0002> c d </s>\n"
    return {
        "csv": {"texts.csv": table.to_csv(index=False).encode()},
        "tsv": {"texts.tsv": b"label\ttext\n0\ta dull film\n1\ta fine one\n"},
        "jsonl": {"texts.jsonl": table.to_json(orient="records", lines=True).encode()},
        "parquet": {"texts.parquet": parquet.getvalue()},
        "lines": {"texts.txt": b"0 a dull film\n1 a fine one\n"},
        "hansards": {
            "gold.e": english.encode(),
            "gold.f": french.encode(),
            "gold.align": b"0-1 1-1 2-2-P\n0-0 1-1-P\n",
        },
        "pharaoh": {"own.src": b"a b c\nd e\n", "own.tgt": b"x y\nz\n", "own.links": b"0-0 1?1 2-1-P\n0-0-S\n"},
        "bicici": {"bicici.zip": packed({f"German-English_WordAlignment/{n}": c for n, c in _bicici().items()})},
        "sentences": {"sentences.zip": packed(_sentences())},
        "reviews": {"reviews.zip": packed({f"movie_reviews/pos/cv{k}.txt": f"good {k}".encode() for k in range(20)})},
        "mnist": {"images.gz": _idx(np.zeros((2, 28, 28))), "labels.gz": _idx(np.array([3, 9]))},
        "cifar": {"cifar.tar": _tar({f"test/{n}/1.jpg": _jpeg(32, 32) for n in ("ship", "frog")})},
        "camvid": {"camvid.tar": _tar({"test/a.jpg": _jpeg(12, 16), "testannot/a.png": _grey(12, 16)})},
        "novels": {"novels.tar": _tar({"novels/x.txt": b"It was.\n\nIndeed."})},
        "texts": {"own/a.txt": "It was é.".encode(), "own/b.txt": b"Indeed."},
    }


def _bicici() -> Files:
    return {"test.de": b"ein Haus\n", "test.en": b"a house\n", "de-en.wa": b"0-0 1-1\n"}


def _sentences() -> Files:
    return {
        f"sentence_polarity/rt-polarity.{kind}": "\n".join(f"text {kind} {k}" for k in range(20)).encode()
        for kind in ("neg", "pos")
    }


def _tar(files: Files) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def _idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


def _jpeg(height: int, width: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, dtype=np.uint8)).save(file, "jpeg")
    return file.getvalue()


def _grey(height: int, width: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((height, width), 3, dtype=np.uint8)).save(file, "png")
    return file.getvalue()


@functools.cache
def archive() -> bytes:
    """Return a zip archive of a model, as a release of the zoo has it."""
    return packed(checkpoint("mamba"))


def quiet() -> None:
    """Let nothing of what makes the originals be printed."""
    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
