"""The residual stream around each block of a run: before the mixers, and after their outputs have been added.

A norm that runs after the mixers reads the sum, unless it reads the block's input (for a token-wise part in parallel,
as in GPT-NeoX); without such a norm, the block returns the sum. If a norm reads a new sum between two mixers, each is a
block of its own; mixers that all read the block's input are parallel branches of one block. Where a mixer's output is
normalised before it is added (OLMo Hybrid), its family says which part of the block reads the sum.

A layer that its family calls aside (Zamba's shared attention) has no place in the stream: it becomes a block without
`stream_out`, and the next block, whose mixers read more than the stream, says that it is fed by it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mambascope.brief import brief
from mambascope.families import AttentionFamily, MixerFamily
from mambascope.trace.block import Block, Branch, precision
from mambascope.trace.propagation_rules import is_norm
from mambascope.trace.scanning import relative_error


class Streams:
    """Collects the blocks of one pass.

    Attributes:
        blocks: The blocks that are complete, in order.
        branches: How many mixers have run.
    """

    def __init__(self, allowed: Callable[[torch.dtype], float], kept: Callable[[Block], Block]) -> None:
        """Collect blocks, of each of which is kept what `kept` returns of it."""
        self.blocks: list[Block] = []
        self.branches = 0
        self._allowed, self._kept = allowed, kept
        self._open: dict[str, _Open] = {}
        self._embedded: Any = None
        self._aside: Block | None = None

    def add(self, branch: Branch) -> None:
        """Add a mixer that has run to the block that is running, or as a block of its own if there is none."""
        self.branches += 1
        place = branch.name.rpartition(".")[0]
        if place in self._open:
            opened = self._open[place]
            opened.branches.append(branch)
            if opened.normed is not None and opened.normed[2] is branch.captured.x:
                opened.read = opened.normed[:2]
        else:
            self.blocks.append(self._kept(Block(len(self.blocks), branch.name, (branch,))))

    @contextmanager
    def watching(self, model: nn.Module, mixers: Sequence[tuple[str, nn.Module, MixerFamily]]) -> Iterator[None]:
        """Record the stream before and after every block with mixers, inside the context."""
        places: dict[str, list[tuple[nn.Module, MixerFamily]]] = {}
        for name, mixer, family in mixers:
            places.setdefault(name.rpartition(".")[0], []).append((mixer, family))
        with ExitStack() as stack:
            for place, inside in places.items():
                block = model.get_submodule(place)
                for handle in self._hooks(place, block, inside) if block is not model else ():
                    stack.callback(handle.remove)
            yield

    def _hooks(
        self, place: str, block: nn.Module, mixers: Sequence[tuple[nn.Module, MixerFamily]]
    ) -> Iterator[RemovableHandle]:
        def entered(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._open[place] = _Open(args[0] if args else kwargs.get("hidden_states"))
            if self._embedded is None:
                self._embedded = self._open[place].stream_in

        def read(norm: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if place in self._open:
                self._open[place].normed = (norm, args[0], output)

        def normed(_: nn.Module, args: tuple[Any, ...]) -> None:
            opened = self._open.get(place)
            if opened is not None and opened.branches and args[0] is not opened.stream_in:
                self._close(place, args[0])
                self._open[place] = _Open(args[0])

        def summed(_: nn.Module, args: tuple[Any, ...]) -> None:
            if place in self._open:
                self._open[place].summed = args[0]

        def renewed(factor: float, _: nn.Module, __: Any, output: Tensor) -> None:
            opened = self._open.get(place)
            if opened is not None and not opened.branches:
                opened.stream_in = output if factor == 1 else output * factor
                opened.normed = None  # this norm makes the stream, and stands before no mixer alone

        def beside(_: nn.Module, __: Any, output: Tensor) -> None:
            if place in self._open:
                self._open[place].beside = output

        def left(_: nn.Module, __: Any, output: Any) -> None:
            if place in self._open:
                self._close(place, output[0] if isinstance(output, tuple) else output)
                del self._open[place]

        yield block.register_forward_pre_hook(entered, with_kwargs=True)
        yield block.register_forward_hook(left)
        inside = {part for mixer, _ in mixers for part in mixer.modules()}
        known = [family for _, family in mixers if isinstance(family, AttentionFamily)]
        readers = [family.output_norm(block)[1] for family in known if family.output_norm is not None]
        for reader in readers:
            yield reader.register_forward_pre_hook(summed)
        for part in () if readers else block.modules():
            if is_norm(part) and part not in inside:
                yield part.register_forward_pre_hook(normed)
                yield part.register_forward_hook(read)
        for mixer, family in mixers:
            post = family.post_norm(mixer)
            if post is not None:
                yield post.register_forward_pre_hook(summed)
        residual = mixers[0][1].residual(block)
        if residual is not None:
            yield residual[0].register_forward_hook(partial(renewed, residual[1]))
        for part in mixers[0][1].beside(block):
            yield part.register_forward_hook(beside)

    def _close(self, place: str, output: Any) -> None:
        """Complete the block of the mixers that have run, and compare the sum of their outputs with the stream."""
        opened = self._open[place]
        if not opened.branches:
            return
        branches = tuple(opened.branches)
        if _is_aside(branches[0]):
            self._aside = self._set_aside(place, branches, opened)
            self.blocks.append(self._aside)
            return
        fed_by, self._aside = self._aside, None
        block = Block(len(self.blocks), place, branches, fed_by=fed_by)
        stream_in, stream_out = (_in_line(branches[0], stream) for stream in (opened.stream_in, opened.left(output)))
        if stream_in is not None and stream_out is not None:
            working = precision(stream_out.dtype)
            error = relative_error(stream_in.to(working) + block.y.to(working), stream_out.to(working))
            trusted = error <= self._allowed(stream_out.dtype)
            norm, read = opened.read or (None, None)
            read = None if read is None else _in_line(branches[0], read)
            if read is None or (fed_by is None and torch.equal(read, stream_in.to(read.dtype))):  # in its own precision
                norm, read = None, None
            block = dataclasses.replace(
                block,
                stream_in=stream_in,
                stream_out=stream_out,
                stream_error=error,
                trusted=trusted,
                read=read,
                norm=norm,
            )
        self.blocks.append(self._kept(block))

    def _set_aside(self, place: str, branches: tuple[Branch, ...], opened: _Open) -> Block:
        """Return the block of a layer that is not in the stream; it is trusted if it read the stream and the tokens."""
        norm, read = opened.read or (None, None)
        beside = (opened.stream_in, self._embedded)
        device = branches[0].captured.x.device
        given = all(isinstance(part, Tensor) for part in beside)
        expected = torch.cat([part.to(device) for part in beside], dim=-1) if given else None
        return Block(
            len(self.blocks),
            place,
            branches,
            stream_in=opened.stream_in,
            trusted=read is not None and expected is not None and torch.equal(read, expected),
            aside=True,
            read=read,
            norm=norm,
        )


def _is_aside(branch: Branch) -> bool:
    return isinstance(branch.family, AttentionFamily) and branch.family.aside


@dataclass
class _Open:
    """A block that is running: its input, the mixers that have run, what they read, and what is added in parallel.

    `normed` is the last norm that ran, with its input and its output; `read` the norm before a mixer, with its input.
    """

    stream_in: Any
    branches: list[Branch] = field(default_factory=list)
    normed: tuple[nn.Module, Any, Any] | None = None
    read: tuple[nn.Module, Any] | None = None
    beside: Tensor | None = None
    summed: Tensor | None = None

    __repr__ = brief

    def left(self, output: Any) -> Any:
        """Return the stream after the mixers' outputs have been added to it, given the block's output."""
        if self.summed is not None:
            return self.summed
        return output if self.beside is None or not isinstance(output, Tensor) else output - self.beside


def _in_line(branch: Branch, stream: Any) -> Float[Tensor, "b L F"] | None:
    """Return a stream with its tokens as a sequence, on the mixer's device; None if its output cannot be added to it.

    Where layers are on several devices, hooks see a block's input where the block before it left it.
    """
    if not isinstance(stream, Tensor):
        return None
    captured = branch.captured
    stream = stream.flatten(1, 2) if captured.grid is not None and stream.ndim == 4 else stream
    return stream.detach().to(captured.x.device) if stream.shape == captured.y.shape else None
