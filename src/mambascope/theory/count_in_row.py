"""Count in row: how long the run of ones is that ends at each position, by one selective channel (S6).

    h_t = x_t h_{t-1} + x_t ,     y_t = h_t ,     x_t ∈ {0, 1}

This is the function by which Ali, Zimerman & Wolf (arXiv 2403.01590, the theorem on expressiveness) separate one S6
channel from one attention head without softmax: the channel's decay is the token, Ā_t = x_t. A real channel has

    Δ_t = softplus(W_Δ e_t + b_Δ) ,   Ā_t = exp(Δ_t A) ,   B̄_t = Δ_t W_B e_t ,   C_t = W_C e_t ,   s_t = W_s e_t

where e_t is what the layer reads of token t. Δ is positive, so in real numbers Ā is never 0 or 1. What rounding makes
of it is exact: exp(-2^-74) rounds to 1 and exp(-1024) to 0, in float32 and in float64.

* `exact_channel` reads each token as one of two unit vectors. Everything else it computes is a power of two or a whole
  number: softplus is the identity on 64 and 2^90, as its argument exceeds 45. Its counts are exact up to 2^24 in
  float32 and 2^53 in float64, and so are the entries of its matrix up to 2^20 tokens apart. In real numbers it would
  lose less than n² 2^-75 of a count n, as a run decays by exp(-2^-74) a token, and a zero would leave exp(-1024) of it.
* `one_number_channel` reads the bit alone. Then Δ is softplus of 64 or of -64, which is no power of two, and a token
  adds 1 only up to rounding: a count n is right within `rounding(n)`.
* `mixer_model` is the first of them as a stock Mamba layer, between a convolution and a gate that change nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import MambaConfig, MambaForCausalLM

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.operators.selective_scan import SelectiveScan

#: softplus(x) is x to the last bit in float64, and softplus(-x) is not yet 0.
PLAIN = 64.0

#: Δ of the token 0, with which `exact_channel` forgets, and A: Δ A is -1024 for it, and -2^-74 for the token 1.
FORGET, RATE = 2.0**90, -(2.0**-80)

#: Where in the stream `mixer_model` writes its count.
COUNTED = 2


@dataclass(frozen=True, eq=False)
class Channel:
    """The weights of one S6 channel over binary strings, with a state of one number.

    Attributes:
        tokens: e, what the layer reads of the token 0 (first row) and of the token 1.
        W_s: Makes what the scan reads.
        W_dt: Makes Δ's argument, with `b_dt`.
        b_dt: Its bias.
        A: The decay rate.
        W_B: Makes the write vector.
        W_C: Makes the read vector.
    """

    tokens: Float[Tensor, "2 F"]
    W_s: Float[Tensor, " F"]
    W_dt: Float[Tensor, " F"]
    b_dt: Float[Tensor, ""]
    A: Float[Tensor, "1 1"]
    W_B: Float[Tensor, " F"]
    W_C: Float[Tensor, " F"]

    __repr__ = brief

    def scan(self, bits: Int[Tensor, "b L"]) -> SelectiveScan:
        """Return the channel's scan over some strings: its matrix, tiles and products."""
        e = self._read(bits)
        return SelectiveScan(
            dt=F.softplus(e @ self.W_dt + self.b_dt)[..., None],
            A=self.A,
            B=(e @ self.W_B)[..., None],
            C=(e @ self.W_C)[..., None],
            skip=self.A.new_zeros(1),
        )

    def count(self, bits: Int[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return what the channel puts out at every position of some strings."""
        return self.scan(bits).apply((self._read(bits) @ self.W_s)[..., None])[..., 0]

    def _read(self, bits: Int[Tensor, "b L"]) -> Float[Tensor, "b L F"]:
        _check(bits)
        return self.tokens[bits]


def run_lengths(bits: Int[Tensor, "b L"]) -> Int[Tensor, "b L"]:
    """Return count in row by its definition: how far each position is from the last zero up to it."""
    _check(bits)
    places = torch.arange(1, bits.shape[1] + 1, device=bits.device).expand_as(bits)
    last_zero = places.masked_fill(bits == 1, 0).cummax(dim=1).values
    return places - last_zero


def exact_channel(dtype: torch.dtype = torch.float64) -> Channel:
    """Return the channel whose counts are exact: tokens are the unit vectors (1, 0) and (0, 1).

    Only zeros forget (W_Δ), only ones are read, written and counted (W_s, W_B, W_C).
    """
    zero, one = torch.eye(2, dtype=dtype)
    return Channel(
        tokens=torch.eye(2, dtype=dtype),
        W_s=one,
        W_dt=FORGET * zero,
        b_dt=torch.tensor(PLAIN, dtype=dtype),
        A=torch.tensor([[RATE]], dtype=dtype),
        W_B=one / PLAIN,
        W_C=one,
    )


def one_number_channel(dtype: torch.dtype = torch.float64) -> Channel:
    """Return a channel that reads the bit alone, so that Δ = softplus(64 - 128 x): right within `rounding`."""
    one = torch.ones(1, dtype=dtype)
    return Channel(
        tokens=torch.tensor([[0.0], [1.0]], dtype=dtype),
        W_s=one,
        W_dt=-2 * PLAIN * one,
        b_dt=torch.tensor(PLAIN, dtype=dtype),
        A=torch.tensor([[-16.0]], dtype=dtype),  # Δ A is -1024 for the token 0, and -2.6e-27 for the token 1
        W_B=1 / F.softplus(-PLAIN * one),
        W_C=one,
    )


def rounding(count: int, dtype: torch.dtype) -> float:
    """Return how far `one_number_channel` may be from a count.

    With u = eps / 2, what each one adds is rounded by softplus, whose kernels may differ by two units in the last place
    (4 u), by its inverse (u), and by the product (u). Each of the additions rounds a number up to the count by u.
    """
    unit = torch.finfo(dtype).eps / 2
    return count * (count + 6) * unit * (1 + 1e-3)  # products of roundings, for counts up to 1e-4 / u


def mixer_model() -> MambaForCausalLM:
    """Return a stock Mamba of one layer and two tokens that counts: its layer's output holds the count, exactly.

    The stream is 4 wide: places 0 and 1 say which token it is, `COUNTED` receives the count, and the last is empty; its
    norm has no epsilon, so it makes 2 of a token's 2. The channel of `exact_channel` is channel 0; channel 1 carries
    the token 0, from which Δ is made, and the other two are idle. The SiLUs of the convolution and the gate see 64 or 0
    and are the identity. The logit of the token 1 rises with the count.
    """
    config = MambaConfig(
        vocab_size=2, hidden_size=4, expand=1, state_size=1, num_hidden_layers=1, time_step_rank=1,
        layer_norm_epsilon=0.0, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    model = MambaForCausalLM(config).eval()
    mixer = model.backbone.layers[0].mixer
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        model.backbone.embeddings.weight[0, 1] = model.backbone.embeddings.weight[1, 0] = 2
        mixer.in_proj.weight[[0, 1], [0, 1]] = PLAIN / 2  # s: 64 in channel 0 for the token 1, in channel 1 for 0
        mixer.in_proj.weight[4, :2] = PLAIN / 2  # the gate of channel 0 is 64 for both
        mixer.conv1d.weight[:, 0, -1] = 1
        dt, B, C = range(3)
        mixer.x_proj.weight[dt, 1] = FORGET / PLAIN
        mixer.x_proj.weight[B, 0] = PLAIN**-3  # Δ B s is 1 at a one: 64 · (64 · 64⁻³) · 64
        mixer.x_proj.weight[C, 0] = 1 / PLAIN
        mixer.dt_proj.weight[0] = 1
        mixer.dt_proj.bias.fill_(PLAIN)
        mixer.A_log.fill_(math.log(-RATE))
        mixer.out_proj.weight[COUNTED, 0] = 1 / PLAIN
        model.lm_head.weight[1, COUNTED] = 1
    return model


def _check(bits: Tensor) -> None:
    """Raise InputError unless all tokens are 0 or 1."""
    if bits.numel() and not 0 <= int(bits.min()) <= int(bits.max()) <= 1:
        found = int(bits[(bits < 0) | (bits > 1)][0])
        raise InputError(f"a binary string holds zeros and ones only, found {found}")
