"""Several threads at once: explanations and stock passes of one model give what they give alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch

import mambascope
from models import TRANSFORMERS

from .. import originals
from ..findings import Case
from ..properties import close, left_as_it_was, require
from ..running import Target

METHODS = (
    "latim",
    "hidden-attention",
    "raw-attention",
    "rollout",
    "mamba-lrp",
    "alti-logit",
    "gradient-x-input",
    "knockout",
    "occlusion",
)


def _draw(rng: Random) -> Case:
    return {
        "model": rng.choice((*originals.TEXT, *originals.PICTURE)),
        "beside": rng.choice(("stock passes", "stock passes", "training passes", "explanations", "another model")),
        "method": rng.choice(METHODS),
        "times": rng.choice((1, 3)),
        "seed": rng.randrange(10**6),
    }


def _inputs(name: str, seed: int) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(seed)
    if name in originals.PICTURE:
        return {"pixel_values": torch.randn(1, 3, 32, 32, generator=draw)}
    return {"input_ids": torch.randint(3, 13 if name == "bert" else 250, (1, 9), generator=draw)}


def _check(case: Case, folder: Path) -> None:
    model, _ = originals.model(case["model"])
    inputs = _inputs(case["model"], case["seed"])

    def explained() -> Any:
        return mambascope.explain(model, None, inputs, method=case["method"]).scores

    def stock(one: Any = model, of: dict[str, Any] = inputs) -> Any:
        with torch.no_grad():
            outputs = one(**of)
        return outputs.logits if hasattr(outputs, "logits") else outputs.last_hidden_state

    def training() -> Any:
        outputs = model(**inputs)
        return (outputs.logits if hasattr(outputs, "logits") else outputs.last_hidden_state).detach()

    name = "mamba2" if case["model"] != "mamba2" else "mamba"
    other, beside_it = originals.model(name)[0], _inputs(name, case["seed"])
    beside: dict[str, Callable[[], Any]] = {
        "stock passes": stock,
        "training passes": training,
        "explanations": explained,
        "another model": lambda: stock(other, beside_it),
    }
    alone, quiet = explained(), beside[case["beside"]]()
    again = beside[case["beside"]]()
    spread = float((again - quiet).abs().max())
    found: list[Any] = []
    failed: list[BaseException] = []
    stop = threading.Event()

    def passes() -> None:
        try:
            while not stop.is_set() and len(found) < 200:
                found.append(beside[case["beside"]]())
        except BaseException as error:
            failed.append(error)

    with left_as_it_was(model):
        thread = threading.Thread(target=passes)
        thread.start()
        try:
            results = [explained() for _ in range(case["times"])]
        finally:
            stop.set()
            thread.join()
    if failed:
        raise failed[0]
    for result in results:
        close(result, alone, "another result beside a thread", f"{case['method']} beside {case['beside']}")
    kind = "a model of attention" if case["model"] in TRANSFORMERS else "a model of scans"
    bound = spread + 1e-5 * float(quiet.abs().max())
    worst = max((float((one - quiet).abs().max()) for one in found), default=0.0)
    require(worst <= bound, "another result beside a thread", f"{case['beside']} of {kind}")


TARGETS = [Target("threads", _draw, _check)]
