"""Values that nobody should pass and somebody will, by name, so that a case is plain JSON."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import torch

#: Texts, good and odd; all are valid Python strings, some are not valid Unicode.
TEXTS = (
    "The cat sat", "a", " ", "", "\n", "\t \n", "é", "日本語", "😀👍🏽", "\u202eabc", "\x00", "a\x00b", "\x1b[31m",
    "[bold]", "[/]", "\ud800", "a\udcffb", "<|end|>", "<s>", "-", "--", "-1", "1e99", "nan", "inf", "None", "null",
    "{}", "[]", "0", "/", ".", "..", "~", "a/b", "http://x/y", "x" * 300, "word " * 60, "\\", "'", '"', "%s", "$x$",
    "\u2028", "\ufeff", "²", "٣", "1_0", "0x10", "é" * 200,
)  # fmt: skip

#: Numbers as a user's program may have them.
NUMBERS = (0, 1, -1, 2, 3, 7, 10**6, -(10**6), 2**31, 2**63, 2**64, -(2**63), 10**30, 0.0, 0.5, -0.5, 1e-300, 1e300)


def _idle(*_: Any, **__: Any) -> None:
    """A function that does nothing: where one may be given, it is right."""


#: Values of other types, made anew for each case.
OTHERS = {
    "none": lambda: None,
    "true": lambda: True,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "empty list": list,
    "empty dict": dict,
    "empty tuple": tuple,
    "empty bytes": bytes,
    "list of none": lambda: [None],
    "list of text": lambda: ["a"],
    "nested list": lambda: [[0]],
    "list of nan": lambda: [float("nan")],
    "list of numbers": lambda: [0, 1],
    "list twice": lambda: [0, 0],
    "set": lambda: {0},
    "object": object,
    "class": lambda: int,
    "function": lambda: _idle,
    "slice": lambda: slice(None, None, 0),
    "slice of text": lambda: slice("a", "b"),
    "range": lambda: range(5, 2),
    "long range": lambda: range(10**9),
    "numpy int": lambda: np.int64(1),
    "numpy float": lambda: np.float32(1.5),
    "numpy array": lambda: np.zeros((2, 3)),
    "numpy text": lambda: np.array(["a"]),
    "numpy object": lambda: np.array([None]),
    "tensor": lambda: torch.tensor(1),
    "tensor of floats": lambda: torch.tensor([0.5]),
    "empty tensor": lambda: torch.empty(0),
    "meta tensor": lambda: torch.empty(2, device="meta"),
    "complex": lambda: 1j,
    "bytes": lambda: b"\xff\x00",
    "model": torch.nn.Identity,
    "dtype": lambda: torch.int8,
}


def any_value(rng: Random) -> dict[str, Any]:
    """Return the description of a random value; `made` makes it."""
    kind = rng.choice(("text", "number", "other", "other"))
    if kind == "other":
        return {"other": rng.choice(sorted(OTHERS))}
    return {"is": rng.choice(TEXTS if kind == "text" else NUMBERS)}


def made(described: dict[str, Any]) -> Any:
    """Return the value that is described."""
    return OTHERS[described["other"]]() if "other" in described else described["is"]
