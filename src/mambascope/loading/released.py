"""What the readers of single files share: formats are told by the names of their tensors, wherever those are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import CheckpointError
from mambascope.loading.containers import Contents, is_average, read_contents, under
from mambascope.numbering import shown

#: Side of the pictures that most published models of all layouts were trained on.
PUBLISHED_IMAGE_SIZE = 224


@dataclass(frozen=True)
class Layout:
    """The layout of one project's files.

    Attributes:
        title: The model's name.
        sign: A tensor that every such model has, and no other one.
        marks: Tensors that every such model has, by which its sizes are known.
    """

    title: str
    sign: str
    marks: tuple[str, ...]


@dataclass(frozen=True)
class Released:
    """A model's tensors in a file of its authors.

    Attributes:
        name: The file, for messages.
        title: The model's name.
        tensors: Its tensors, by their names in the model.
        settings: What the training run's settings say, as far as they are in the file.
        notes: What was chosen or assumed, a clause each.
    """

    name: str
    title: str
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    __repr__ = brief

    def shape(self, key: str, axes: int) -> tuple[int, ...]:
        """Return the shape of a tensor; raises CheckpointError if it is absent, empty, or has another rank."""
        if key not in self.tensors:
            raise CheckpointError(f"{self.name} lacks a tensor that a {self.title} needs: {key}")
        shape = tuple(self.tensors[key].shape)
        if len(shape) != axes or 0 in shape:
            raise CheckpointError(
                f"{self.name}: {key} has shape {shape}, and in a {self.title} it has {axes} axes, none of them empty"
            )
        return shape

    def count(self, places: set[int], what: str) -> int:
        """Return how many parts there are, given their numbers; raises CheckpointError unless they count from 0."""
        if not places or places != set(range(len(places))):
            missing = next(number for number in range(len(places) + 1) if number not in places)
            raise CheckpointError(
                f"{self.name} has no {what} {missing}, but one that is numbered {max(places, default=0)}, so it is not "
                f"a whole {self.title}"
            )
        return len(places)


def find_released(source: Path | Contents, layout: Layout) -> Released | None:
    """Return the tensors of a model of this layout in a file; None if none of its tensors is in it.

    Raises:
        CheckpointError: if the file cannot be read, is damaged, or has only some of the tensors that tell the sizes.
    """
    contents = source if isinstance(source, Contents) else read_contents(source)
    lacking: list[str] = []
    for held in contents.state_dicts:
        for prefix in under(held.held, layout.sign):
            missing = [mark for mark in layout.marks if prefix + mark not in held.held]
            if missing:
                lacking = lacking or missing
                continue
            names = [name for name in held.held if name.startswith(prefix)]
            tensors = {name.removeprefix(prefix): value for name, value in held.tensors(names).items()}
            place = [*held.place, prefix]
            notes = ("the moving average of its weights, and not the weights of the last step",)
            chose = is_average(place) and (len(contents.state_dicts) > 1 or len(under(held.held, layout.sign)) > 1)
            return Released(str(contents.path), layout.title, tensors, contents.settings, notes if chose else ())
    if lacking:
        raise CheckpointError(
            f"{contents.path} looks like a {layout.title}, but lacks {', '.join(lacking)}, without which its sizes are "
            "unknown"
        )
    return None


def require_released(path: str | Path, layout: Layout) -> Released:
    """Return the tensors of a model in a file; raises CheckpointError as `find_released` does, or if there is none."""
    found = find_released(Path(path), layout)
    if found is None:
        raise CheckpointError(f"{path} is not a {layout.title} checkpoint: it has no tensor {shown(layout.sign)[1:-1]}")
    return found
