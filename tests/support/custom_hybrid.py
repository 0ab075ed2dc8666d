"""A modelling file of somebody's own, as it comes with a checkpoint: a Mamba-2 and a Llama-like layer, renamed.

Its mixers are built like the stock ones and call the same functions, but no family names their classes. `twist` changes
what one of them computes, in a way that its parts do not show.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, eager_attention_forward
from transformers.models.mamba2.modeling_mamba2 import causal_conv1d_fn, mamba2_chunk_scan

SIZES = {"width": 12, "heads": 4, "state": 5, "groups": 2}


class GatedNorm(nn.Module):
    """Mamba-2's norm, group by group, of the scan's output times SiLU(z)."""

    def __init__(self, width, group_size):
        super().__init__()
        self.weight, self.group_size, self.variance_epsilon = nn.Parameter(torch.ones(width)), group_size, 1e-5

    def forward(self, hidden_states, gate):
        groups = (hidden_states * F.silu(gate)).unflatten(-1, (-1, self.group_size))
        scale = torch.rsqrt(groups.pow(2).mean(dim=-1, keepdim=True) + self.variance_epsilon)
        return self.weight * (groups * scale).flatten(-2)


class CustomStateMixer(nn.Module):
    """Mamba-2 under another name; `twist` multiplies what it returns by a factor that depends on the token."""

    def __init__(self, twist=False):
        super().__init__()
        width, self.heads, self.state, self.groups = SIZES.values()
        self.inner, self.twist = 2 * width, twist
        channels = self.inner + 2 * self.groups * self.state
        self.in_proj = nn.Linear(width, self.inner + channels + self.heads, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, 4, groups=channels, padding=3)
        self.A_log, self.D, self.dt_bias = (nn.Parameter(torch.zeros(self.heads)) for _ in range(3))
        self.norm = GatedNorm(self.inner, self.inner // self.groups)
        self.out_proj = nn.Linear(self.inner, width, bias=False)

    def forward(self, hidden_states):
        batch, length, _ = hidden_states.shape
        wide = self.groups * self.state
        gate, mixed, step = self.in_proj(hidden_states).split([self.inner, self.inner + 2 * wide, self.heads], dim=-1)
        mixed = causal_conv1d_fn(mixed.mT, self.conv1d.weight.squeeze(1), self.conv1d.bias, activation="silu").mT
        x, B, C = mixed.split([self.inner, wide, wide], dim=-1)
        B, C = (part.reshape(batch, length, self.groups, self.state) for part in (B, C))
        o = mamba2_chunk_scan(
            x.reshape(batch, length, self.heads, -1),
            step,
            -self.A_log.exp(),
            B,
            C,
            chunk_size=16,
            D=self.D,
            dt_bias=self.dt_bias,
            dt_softplus=True,
        )
        y = self.out_proj(self.norm(o.reshape(batch, length, -1), gate))
        return y * (1 + hidden_states[..., :1]) if self.twist else y


class CustomAttention(nn.Module):
    """Llama's attention under another name; `twist` gates its heads by the token, as newer models do."""

    is_causal, training = True, False

    def __init__(self, twist=False):
        super().__init__()
        width, self.head_dim, self.twist = SIZES["width"], 4, twist
        self.num_key_value_groups, self.scaling = 2, self.head_dim**-0.5
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, 4 * heads) for heads in (4, 2, 2))
        self.o_proj = nn.Linear(16, width)

    def forward(self, hidden_states):
        batch, length, _ = hidden_states.shape
        q, k, v = (
            part(hidden_states).view(batch, length, -1, self.head_dim).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        angles = torch.arange(length)[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1])
        q, k = apply_rotary_pos_emb(q, k, angles.cos()[None].to(q), angles.sin()[None].to(q))
        hidden = torch.full((length, length), -1e9, dtype=q.dtype).triu(1)[None, None]
        y, p = eager_attention_forward(self, q, k, v, hidden, scaling=self.scaling)
        y = y.reshape(batch, length, -1)
        return self.o_proj(y * torch.sigmoid(y) if self.twist else y), p


class FourierMixer(nn.Module):
    """A mixer of a kind that nobody knows here, without any of the known functions: FNet's."""

    def __init__(self):
        super().__init__()
        self.out_proj = nn.Linear(SIZES["width"], SIZES["width"])

    def forward(self, hidden_states):
        return self.out_proj(torch.fft.fft2(hidden_states.float()).real.to(hidden_states.dtype))


class CustomMLP(nn.Module):
    """An MLP; `shift` lets each token also read the one before it, as RWKV's does."""

    def __init__(self, shift=False):
        super().__init__()
        width, self.shift = SIZES["width"], shift
        self.up, self.down = nn.Linear(width, 16), nn.Linear(16, width)

    def forward(self, hidden_states):
        before = F.pad(hidden_states, (0, 0, 1, -1)) if self.shift else 0
        return self.down(F.silu(self.up(hidden_states + before)))


class CustomBlock(nn.Module):
    """x + mixer(norm(x)), then x + MLP(norm(x)); `inline` mixes tokens in the block's own code."""

    def __init__(self, mixer, shift=False, inline=False):
        super().__init__()
        self.norm_1, self.norm_2 = (nn.RMSNorm(SIZES["width"], eps=1e-5) for _ in range(2))
        self.mixer, self.mlp, self.inline = mixer, CustomMLP(shift), inline

    def forward(self, hidden_states):
        y = self.mixer(self.norm_1(hidden_states))
        hidden_states = hidden_states + (y[0] if isinstance(y, tuple) else y)
        if self.inline:
            hidden_states = hidden_states + hidden_states.mean(dim=1, keepdim=True)
        return hidden_states + self.mlp(self.norm_2(hidden_states))


class CustomHybrid(nn.Module):
    """Blocks one after the other, on vectors of tokens."""

    def __init__(self, *blocks):
        super().__init__()
        self.layers = nn.ModuleList(blocks)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def custom_hybrid(*blocks, dtype=torch.float64):
    """Return a hybrid of these blocks with every weight from N(0, 0.4), norms around 1."""
    torch.manual_seed(0)
    model = CustomHybrid(*blocks).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.normal_(1 if "norm" in name else 0, 0.4)
    return model.to(dtype)
