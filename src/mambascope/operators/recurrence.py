"""The two linear recurrences under every scan, run forward in time, fast on a CPU and differentiable.

Mamba-1, one decay per channel and state, the state written and read by vectors shared by all channels ([1] eq. 2):

    h_k[d, n] = exp(step_k[d] A[d, n]) h_{k-1}[d, n] + write_k[n] v_k[d],     o_k[d] = Σ_n read_k[n] h_k[d, n]

Mamba-2, one decay per head ([2] eq. 16):

    h_k[p, n] = exp(step_k A) h_{k-1}[p, n] + write_k[n] v_k[p],              o_k[p] = Σ_n read_k[n] h_k[p, n]

A scan has write = Δ B and read = C; its transpose is the same recurrence over the reversed sequence with the two
vectors swapped, so these two functions are all that the operators need. See `mambascope.operators` for the glossary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mambascope.operators.decays import NEGLIGIBLE, Fallen, decay_from, decay_in_place, finite_rates

#: Elements of state, and steps, that one block of steps may hold, so that the block stays in a core's cache.
CACHED_ELEMENTS, MOST_STEPS = 1 << 19, 32

#: Steps between the states that the Mamba-1 recurrence keeps for its backward pass; the others are recomputed.
CHECKPOINT_STEPS = 8

#: Tokens that are laid out anew at a time; a multiple of `CHECKPOINT_STEPS` and of `CHUNK`.
PART = 512

#: Tokens per chunk of the Mamba-2 recurrence: inside a chunk it is a masked matrix product, between chunks a loop.
CHUNK = 64


def channel_recurrence(
    v: Float[Tensor, "b L D"],
    step: Float[Tensor, "b L D"],
    A: Float[Tensor, "D N"],
    write: Float[Tensor, "b L N"],
    read: Float[Tensor, "b L N"],
) -> Float[Tensor, "b L D"]:
    """Return o of the Mamba-1 recurrence; time O(L·D·N), memory O(D·N) beyond the answer, O(L/8·D·N) under autograd."""
    return channel_carried(v, step, A, write, read)[0]


def channel_carried(
    v: Float[Tensor, "b L D"],
    step: Float[Tensor, "b L D"],
    A: Float[Tensor, "D N"],
    write: Float[Tensor, "b L N"],
    read: Float[Tensor, "b L N"],
    before: Float[Tensor, "b N D"] | None = None,
) -> tuple[Float[Tensor, "b L D"], Float[Tensor, "b N D"]]:
    """Return o of the Mamba-1 recurrence that starts from a state, by default zero, and the state after it."""
    before = v.new_zeros(v.shape[0], *A.t().shape) if before is None else before
    tensors = (v, step, finite_rates(A), write, read, before)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return _ChannelRecurrence.apply(*tensors)
    return _channel_forward(*tensors, states=None)


def _channel_forward(
    v: Tensor, step: Tensor, A: Tensor, write: Tensor, read: Tensor, before: Tensor, states: list[Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Run the recurrence with channels innermost, so that every operation runs along contiguous memory.

    A part of the text at a time is laid out with its tokens first, so that no second copy of all of it is held.
    """
    At, h = A.t().contiguous(), before.clone(memory_format=torch.contiguous_format)
    out = torch.empty_like(v, memory_format=torch.contiguous_format)
    block = max(1, min(MOST_STEPS, CACHED_ELEMENTS // (len(v) * At.numel() or 1)))
    decaying = _decaying(step, At)
    decays, hs = (h.new_empty(block, *h.shape) for _ in range(2))
    for first in range(0, v.shape[1], PART):
        part = slice(first, first + PART)
        laid_out = [rearrange(one[:, part], "b L c -> L b 1 c").contiguous() for one in (v, step, write, read)]
        _channel_part(laid_out, At, h, (decays, hs), decaying, states, rearrange(out[:, part], "b L c -> L b 1 c"))
    return out, h


def _channel_part(
    part: list[Tensor],
    At: Tensor,
    h: Tensor,
    buffers: tuple[Tensor, Tensor],
    decaying: Callable[[Tensor], Tensor],
    states: list[Tensor] | None,
    out: Tensor,
) -> None:
    """Write the answer for a part of v, step, write and read, tokens first; the state is changed in place."""
    (v, step, write, read), (decays, hs) = part, buffers
    write, each = write.transpose(2, 3), list(zip(hs.unbind(), decays.unbind(), strict=True))
    for start in range(0, len(v), len(hs)):
        now = slice(start, min(len(v), start + len(hs)))
        steps = now.stop - start
        decaying(torch.mul(step[now], At, out=decays[:steps]))
        written, last = torch.mul(write[now], v[now], out=hs[:steps]), h
        for k, (state, kept) in enumerate(each[:steps], start):
            if states is not None and k % CHECKPOINT_STEPS == 0:
                states.append(last.clone())
            last = state.addcmul_(kept, last)
        h.copy_(last)  # the buffer that holds it is written again
        torch.matmul(read[now], written, out=out[now])


def _decaying(step: Tensor, At: Tensor) -> Callable[[Tensor], Tensor]:
    """Return exp in place; if some exponent may be negligible, `decay_in_place`: of such numbers exp is slow."""
    most = float(step.amax()) * float(At.amin()) if step.numel() else 0.0
    return Tensor.exp_ if most > 2 * NEGLIGIBLE[At.dtype] else decay_in_place


class _ChannelRecurrence(torch.autograd.Function):
    """The Mamba-1 recurrence with its adjoint: λ_k = read_k do_k + exp(step_{k+1} A) λ_{k+1}, run backwards."""

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, step: Tensor, A: Tensor, write: Tensor, read: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor]:
        states: list[Tensor] = []
        out = _channel_forward(v, step, A, write, read, before, states)
        ctx.save_for_backward(v, step, A, write, read, *states)
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        v, step, A, write, read, *states = ctx.saved_tensors
        L = v.shape[1]
        At = A.t().contiguous()
        v, step, write, read, do = (
            rearrange(tensor, "b L c -> L b 1 c").contiguous() for tensor in (v, step, write, read, grad_outputs[0])
        )
        dv, dstep, dwrite, dread = (torch.empty_like(tensor) for tensor in (v, step, write, read))
        dA = torch.zeros_like(At) if ctx.needs_input_grad[2] else None
        adjoint, decaying = grad_outputs[1].clone(memory_format=torch.contiguous_format), _decaying(step, At)
        # One set of buffers for all segments: fresh pages from the system cost more than the arithmetic.
        decays, hs, adjoints = (adjoint.new_empty(CHECKPOINT_STEPS, *adjoint.shape) for _ in range(3))
        each_decay, each_h, each_pulled = (list(buffer.unbind()) for buffer in (decays, hs, adjoints))
        for number in range(len(states) - 1, -1, -1):
            now = slice(number * CHECKPOINT_STEPS, min(L, (number + 1) * CHECKPOINT_STEPS))
            steps = now.stop - now.start
            decay = decaying(torch.mul(step[now], At, out=decays[:steps]))
            h = torch.mul(write[now].transpose(2, 3), v[now], out=hs[:steps])
            before = states[number]
            for state, kept in zip(each_h[:steps], each_decay[:steps], strict=True):
                before = state.addcmul_(kept, before)
            torch.matmul(do[now], h.transpose(2, 3), out=dread[now])
            pulled = torch.mul(read[now].transpose(2, 3), do[now], out=adjoints[:steps])
            each_pulled[steps - 1].add_(adjoint)
            for k in range(steps - 2, -1, -1):
                each_pulled[k].addcmul_(each_decay[k + 1], each_pulled[k + 1])
            torch.mul(pulled[0], decay[0], out=adjoint)
            torch.matmul(write[now], pulled, out=dv[now])
            torch.matmul(v[now], pulled.transpose(2, 3), out=dwrite[now])
            flow = pulled.mul_(decay)
            flow[0] *= states[number]
            flow[1:] *= h[:-1]
            torch.sum(torch.mul(flow, At, out=h), dim=2, keepdim=True, out=dstep[now])
            if dA is not None:
                dA += flow.mul_(step[now]).sum(dim=(0, 1))
        dv, dstep, dwrite, dread = (rearrange(tensor, "L b 1 c -> b L c") for tensor in (dv, dstep, dwrite, dread))
        return dv, dstep, None if dA is None else dA.t(), dwrite, dread, adjoint


def head_recurrence(
    v: Float[Tensor, "b L H P"],
    step: Float[Tensor, "b L H"],
    A: Float[Tensor, " H"],
    write: Float[Tensor, "b L G N"],
    read: Float[Tensor, "b L G N"],
) -> Float[Tensor, "b L H P"]:
    """Return o of the Mamba-2 recurrence in chunks of matrix products ([2] section 6); time O(L·H·P·(N + CHUNK))."""
    return head_carried(v, step, A, write, read)[0]


def head_carried(
    v: Float[Tensor, "b L H P"],
    step: Float[Tensor, "b L H"],
    A: Float[Tensor, " H"],
    write: Float[Tensor, "b L G N"],
    read: Float[Tensor, "b L G N"],
    before: Float[Tensor, "b H P N"] | None = None,
) -> tuple[Float[Tensor, "b L H P"], Float[Tensor, "b H P N"]]:
    """Return o of the Mamba-2 recurrence that starts from a state, by default zero, and the state after it.

    A part of the text runs at a time, so that beyond the answer no more than its matrices is held.
    """
    b, L, H, P = v.shape
    state = v.new_zeros(b, H, P, write.shape[-1]) if before is None else before
    out = []
    for part in (slice(first, first + PART) for first in range(0, max(L, 1), PART)):
        o, state = _head_part(v[:, part], step[:, part], finite_rates(A), write[:, part], read[:, part], state)
        out.append(o)
    return joined(out), state


def _head_part(
    v: Tensor, step: Tensor, A: Tensor, write: Tensor, read: Tensor, before: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the answer for a part of the text, and the state after it."""
    L, G = v.shape[1], write.shape[2]
    size = min(CHUNK, max(L, 1))
    short = -L % size
    v, step, write, read = (_pad_tokens(tensor, short) for tensor in (v, step, write, read))
    v = rearrange(v, "b (c s) (g k) p -> b c s g k p", s=size, g=G)
    write, read = (rearrange(tensor, "b (c s) g n -> b c g s n", s=size) for tensor in (write, read))
    fall = Fallen.of(rearrange(step * A, "b (c s) (g k) -> b c g k s", s=size, g=G), dim=-1)
    causal = torch.ones(size, size, dtype=torch.bool, device=v.device).tril()
    decay = decay_from((fall[..., :, None] - fall[..., None, :]).masked_fill_(~causal, -torch.inf))
    inside = ((read @ write.transpose(-1, -2)).unsqueeze(3) * decay) @ rearrange(v, "b c s g k p -> b c g k s p")
    # The heads of a group share what it writes and reads, so that their channels are rows of one product.
    to_end = rearrange(decay_from(fall[..., -1:] - fall), "b c g k s -> b c s g k 1")
    written = rearrange(v * to_end, "b c s g k p -> b c g (k p) s") @ write
    written = written.unflatten(3, v.shape[4:])
    kept = decay_from(fall.whole[..., -1])
    state = rearrange(before, "b (g k) p n -> b g k p n", g=G)
    states = []
    for wrote, left in zip(written.unbind(1), kept[..., None, None].unbind(1), strict=True):
        states.append(state)
        state = torch.addcmul(wrote, left, state)
    entering = rearrange(torch.stack(states, dim=1), "b c g k p n -> b c g n (k p)")
    before_chunk = (read @ entering).unflatten(4, v.shape[4:])
    before_chunk = before_chunk * rearrange(decay_from(fall.whole), "b c g k s -> b c g s k 1")
    out = rearrange(before_chunk, "b c g s k p -> b c s g k p") + rearrange(inside, "b c g k s p -> b c s g k p")
    return rearrange(out, "b c s g k p -> b (c s) (g k) p")[:, :L], rearrange(state, "b g k p n -> b (g k) p n")


def _pad_tokens(tensor: Tensor, count: int) -> Tensor:
    """Append `count` zero tokens along dimension 1; coming after every real token, they change none of them."""
    return F.pad(tensor, [0, 0] * (tensor.ndim - 2) + [0, count]) if count else tensor


def reverse_in_time(
    step: Float[Tensor, "b L *c"],
) -> Float[Tensor, "b L *c"]:
    """Return the steps that make the same recurrence run backwards: reversed, and delayed by one token.

    The adjoint at token k decays by the step of token k+1, and at the last token not at all.
    """
    return F.pad(step.flip(1), [0, 0] * (step.ndim - 2) + [1, 0])[:, :-1]


def parts_from_the_end(length: int) -> list[slice]:
    """Return the parts of a text that a recurrence lays out at a time, the last one first."""
    return [slice(first, min(length, first + PART)) for first in range(0, max(length, 1), PART)][::-1]


def joined(parts: Sequence[Float[Tensor, "b _ *c"]]) -> Float[Tensor, "b L *c"]:
    """Return the parts of a text one after the other; a single one as it is, since it need not be copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def one_hot(read: Float[Tensor, "*s N"], number: int) -> Float[Tensor, "*s N"]:
    """Return read vectors that pick one number of the state."""
    picked = torch.zeros_like(read)
    picked[..., number] = 1
    return picked
