"""Find a model's tensors in a file: at any depth, under any chain of wrappers' prefixes, beside whatever else is there.

Training code keeps a state dict beside its optimiser, its settings and often a moving average of the weights. The
average is what authors evaluate and publish, so it is preferred, then a distilled model's teacher, then the weights.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import CheckpointError
from mambascope.loading.json_files import is_file, one_line
from mambascope.loading.pickle_machine import Record, Stranger
from mambascope.loading.pickles import Pickled, read_pickled

#: Suffixes of files that may hold tensors.
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")

#: Keys under which there are no weights of a model.
OTHERS = re.compile(
    r".*(optim|sched|scaler|amp|callback|loop|rng|random_state|loss|criterion).*|args|cfg|config|hparams"
    r"|hyper_parameters",
    re.IGNORECASE,
)

#: Keys and prefixes in the order of preference; others come between the last two.
PREFERRED = (re.compile("(^|_)ema(_|$)|averag", re.IGNORECASE), re.compile("teacher", re.IGNORECASE))
LAST = re.compile("student", re.IGNORECASE)

#: Prefixes that wrappers add to every name, and that no model's own names begin with.
WRAPPERS = ("module.", "_orig_mod.", "_forward_module.", "_fsdp_wrapped_module.")

#: Keys under which training code keeps the settings of its run.
SETTINGS = ("args", "config", "cfg", "hyper_parameters")

#: How deep inside each other dicts are searched, and how many of them.
DEEPEST, MOST = 8, 10_000


@dataclass(frozen=True)
class StateDict:
    """Tensors by name, as they are together in a file.

    Attributes:
        place: The keys that lead to them; none for a file of tensors alone.
        held: Each tensor, or the record of it.
    """

    place: tuple[str, ...]
    held: Mapping[str, Tensor | Record]
    _file: Pickled | None = None

    __repr__ = brief

    def tensors(self, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Return the tensors of these names, or all; raises CheckpointError if one does not fit its storage."""
        asked = self.held if names is None else names
        found = {name: self._tensor(name) for name in asked}
        _check_shared(found, self._file)
        return found

    def _tensor(self, name: str) -> Tensor:
        held = self.held[name]
        return held if isinstance(held, Tensor) else self._file.tensor(name, held)  # type: ignore[union-attr]


@dataclass(frozen=True)
class Contents:
    """What a file of weights holds.

    Attributes:
        path: The file.
        state_dicts: The dicts of tensors in it, the preferred one first.
        settings: The settings of the training run that wrote it, as far as they are plain values.
    """

    path: Path
    state_dicts: tuple[StateDict, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_contents(path: Path) -> Contents:
    """Return what a file of weights holds, in either format; values stay in the file until they are used.

    Raises:
        CheckpointError: if the file cannot be read, is damaged, or was made to run code.
    """
    if not is_file(path):
        raise CheckpointError(f"{path} is not a regular file")
    try:
        with path.open("rb") as file:
            first = file.read(23)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if first == b"version https://git-lfs":
        raise CheckpointError(f"{path} is a Git LFS pointer and not the weights; run `git lfs pull` in its folder")
    if path.suffix == ".safetensors":
        try:
            return Contents(path, (StateDict((), load_file(path)),))
        except Exception as error:  # the library raises errors of its own and of torch for bytes of other formats
            raise CheckpointError(
                f"{path} is not a complete safetensors file ({one_line(error)}); copy or download it again"
            ) from error
    pickled = read_pickled(path)
    found = sorted(_state_dicts(pickled), key=lambda held: (_rank(held.place), -len(held.held)))
    top = attributes(pickled.found)
    settings = next((attributes(top[key]) for key in SETTINGS if attributes(top.get(key))), {})
    return Contents(path, tuple(found), settings)


def attributes(value: Any) -> Mapping[Any, Any]:
    """Return what a dict or a stand-in holds by name: its items and its attributes; nothing for other values."""
    if isinstance(value, Stranger):
        return (value.state if isinstance(value.state, dict) else {}) | value.items
    return value if isinstance(value, dict) else {}


def under(names: Iterable[str], ending: str) -> list[str]:
    """Return the prefixes of the names that end so, the preferred one first."""
    found = {name.removesuffix(ending) for name in names if name.endswith(ending)}
    return sorted(
        (prefix for prefix in found if not prefix or prefix.endswith(".")), key=lambda prefix: (_rank([prefix]), prefix)
    )


def shared_prefix(names: Collection[str], prefixes: Iterable[str] = WRAPPERS) -> str:
    """Return the first of some prefixes with which every name begins; empty if there is none."""
    return next((prefix for prefix in prefixes if all(name.startswith(prefix) for name in names)), "")


def is_average(place: Iterable[str]) -> bool:
    """Return whether these keys or prefixes lead to a moving average of the weights."""
    return _rank(place) == 0


def _rank(place: Iterable[str]) -> int:
    words = [word for key in place for word in key.split(".")]
    for number, pattern in enumerate(PREFERRED):
        if any(map(pattern.search, words)):
            return number
    return len(PREFERRED) + any(map(LAST.search, words))


def _state_dicts(pickled: Pickled) -> Iterator[StateDict]:
    """Yield every dict that holds tensors by name."""
    seen: set[int] = set()
    level: list[tuple[tuple[str, ...], Any]] = [((), pickled.found)]
    for _ in range(DEEPEST):
        below = []
        for place, value in level:
            if id(value) in seen or len(seen) > MOST:
                continue
            seen.add(id(value))
            held = attributes(value)
            records = {key: inner for key, inner in held.items() if isinstance(key, str) and isinstance(inner, Record)}
            if records:
                yield StateDict(place, records, pickled)
            below += [
                ((*place, key), inner)
                for key, inner in held.items()
                if isinstance(key, str) and isinstance(inner, (dict, Stranger)) and not OTHERS.fullmatch(key)
            ]
        level = below


def _check_shared(tensors: Mapping[str, Tensor], file: Pickled | None) -> None:
    """Refuse a few values that are given as many tensors: a model made of them would be far larger than its file."""
    if file is None:
        return
    stored = {(value.data_ptr(), value.numel()): value.numel() for value in tensors.values()}
    asked = sum(value.numel() for value in tensors.values())
    if asked > 4 * sum(stored.values()) + 2**20:
        raise CheckpointError(
            f"{file.path} gives {sum(stored.values()):,} values as tensors of {asked:,} values in all; save a copy of "
            "each tensor, tensor.clone()"
        )
