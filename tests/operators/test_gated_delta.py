"""The gated delta rule and Kimi's form of it: every product and tile against the loops of `naive`, in float64."""

import time

import pytest
import torch

from dense_reference import distance
from mambascope.operators import naive
from mambascope.operators.blocks import Block, Workspace, split
from mambascope.operators.gated_delta import GatedDeltaRule
from mambascope.operators.token_mixer import TokenMixer

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

#: float64 sums of some thousand terms of size one, in another order.
BOUND = 1e-12
LENGTHS = (1, 2, 63, 64, 65, 200)
DECAYS = ("head", "channel")


def make_rule(decay, length, batch=2, dtype=torch.float64, seed=0, extreme=None, heads=4, groups=2, N=5, P=2):
    """Unit keys, β up to 2, decays near 1 and near 0; `extreme` sets some of them to that log decay."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k = normal(batch, length, groups, N), torch.nn.functional.normalize(normal(batch, length, groups, N), dim=-1)
    fall = -torch.nn.functional.softplus(2 * normal(batch, length, heads, 1 if decay == "head" else N) - 2)
    if extreme is not None:
        fall = torch.where(torch.rand(fall.shape, generator=generator) < 0.3, torch.tensor(extreme).double(), fall)
    parts = (q, k, 2 * torch.rand(batch, length, heads, generator=generator, dtype=torch.float64), fall)
    return GatedDeltaRule(*(part.to(dtype) for part in parts), skip=torch.zeros(heads * P, dtype=dtype))


def dense(rule):
    """M of every text and head, (b, H, L, L)."""
    parts = (rule.q, rule.k, rule.beta, rule.decay)
    return torch.stack([naive.gated_delta_matrix(*text) for text in zip(*parts, strict=True)])


def formula(rule):
    """The same from the closed form, one decay per head: (tril(QKᵀ) ∘ Γ) (I + tril(diag(β)KKᵀ ∘ Γ, -1))⁻¹ diag(β)."""
    share = rule.maps // rule.k.shape[2]
    q, k = (part.repeat_interleave(share, dim=2).transpose(1, 2) for part in (rule.q, rule.k))
    fall = rule.decay[..., 0].transpose(1, 2).cumsum(dim=-1)
    length = fall.shape[-1]
    gamma = (fall[..., :, None] - fall[..., None, :]).masked_fill(~torch.ones(length, length).bool().tril(), -torch.inf)
    beta = torch.diag_embed(rule.beta.transpose(1, 2))
    removed = torch.eye(length) + (beta @ k @ k.transpose(-1, -2) * gamma.exp()).tril(-1)
    return (q @ k.transpose(-1, -2) * gamma.exp()) @ torch.linalg.inv(removed) @ beta


def check_products(rule, bound=BOUND):
    M, length = dense(rule), rule.length
    matrix = rule.channels(M)
    v = torch.randn(len(M), length, len(rule.skip), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    given = v.to(rule.k.dtype)
    assert distance(rule.apply(given).double(), torch.einsum("bdij,bjd->bid", matrix, v)) < bound
    assert distance(rule.apply_transposed(given).double(), torch.einsum("bid,bdij->bjd", v, matrix)) < bound
    pulled = torch.einsum("bi,bij->bj", v[..., 0], M.mean(dim=1))
    assert distance(rule.pull(given[..., 0]).double(), pulled) < bound
    whole = rule.tile(slice(0, length), slice(0, length))
    assert distance(whole.double(), M) < bound
    assert (whole.triu(1) == 0).all()


@pytest.mark.parametrize("length", LENGTHS, ids=lambda n: f"L{n}")
@pytest.mark.parametrize("decay", DECAYS)
def test_products_and_the_whole_tile_are_those_of_the_recurrence(decay, length):
    rule = make_rule(decay, length, batch=2 if length < 100 else 1)
    assert isinstance(rule, TokenMixer)
    check_products(rule)


@pytest.mark.parametrize("extreme", [0.0, -1e-9, -50.0, -400.0, -torch.inf])
@pytest.mark.parametrize("decay", DECAYS)
def test_extreme_decays_neither_overflow_nor_lose_anything(decay, extreme):
    """Without any decay, β = 2 and equal keys flip the sign of the state at every token."""
    check_products(make_rule(decay, 70, batch=1, extreme=extreme))


@pytest.mark.parametrize("decay", DECAYS)
def test_float32_loses_its_own_rounding_only(decay):
    check_products(make_rule(decay, 70, batch=1, dtype=torch.float32), 1e-5)


def test_the_recurrence_of_the_specification_is_the_closed_form():
    rule = make_rule("head", 20)
    assert distance(dense(rule), formula(rule)) < BOUND


def test_with_one_decay_for_all_channels_both_forms_agree():
    rule = make_rule("head", 90)
    spread = GatedDeltaRule(rule.q, rule.k, rule.beta, rule.decay.expand(-1, -1, -1, 5), rule.skip)
    v = torch.randn(2, 90, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert distance(spread.apply(v), rule.apply(v)) < BOUND


@pytest.mark.parametrize("decay", DECAYS)
def test_any_rectangle_any_heads_and_scattered_positions(decay):
    rule = make_rule(decay, 200, batch=1)
    M = dense(rule)
    for rows, columns in (
        (slice(130, 199), slice(3, 60)),
        (slice(60, 70), slice(62, 131)),
        (slice(199, 200), slice(0, 200)),
        (slice(0, 5), slice(100, 120)),
        (slice(4, 4), slice(0, 9)),
        (torch.tensor([150, 3, 64, 150]), slice(0, 151)),
        (torch.tensor([63, 199]), torch.tensor([190, 0, 64, 63])),
        (slice(60, 140), torch.tensor([128, 5])),
    ):
        want = M[:, :, rows][..., columns]
        assert torch.allclose(rule.tile(rows, columns), want, rtol=1e-11, atol=1e-13), (rows, columns)
        assert torch.allclose(rule.tile(rows, columns, [3, 1]), want[:, [3, 1]], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("taps", [None, 1, 4])
@pytest.mark.parametrize("length", [1, 65, 200], ids=lambda n: f"L{n}")
@pytest.mark.parametrize("decay", DECAYS)
def test_blocks_hold_every_pair_once_and_mix_as_the_dense_matrix(decay, length, taps):
    rule = make_rule(decay, length, batch=1)
    generator, D, K = torch.Generator().manual_seed(2), len(rule.skip), taps or 1
    gate = torch.randn(1, length, D, dtype=torch.float64, generator=generator)
    weights = torch.randn(1, K, D, length, dtype=torch.float64, generator=generator)
    alpha = rule.channels(dense(rule))
    expected = torch.zeros_like(alpha)
    for shift in range(min(K, length)):
        part = alpha[..., shift:] * (weights[:, shift, :, None, : length - shift] if taps else 1)
        expected[..., : length - shift] += part
    expected = expected * gate.transpose(1, 2)[..., None]
    seen, workspace = torch.zeros(length, length, dtype=torch.long), Workspace()
    for coarse in rule.blocks(K):
        for block in split(coarse, 9, 31):
            part = weights[..., block.columns] if taps else None
            want = expected[:, :, block.rows, block.columns]
            got = rule.mix(block, part, gate[:, block.rows], workspace)
            assert torch.allclose(got, want, rtol=1e-10, atol=1e-12), f"mix of {block}"
            mean = rule.mean(block, part, gate[:, block.rows], workspace)
            assert torch.allclose(mean, want.mean(dim=1), rtol=1e-10, atol=1e-12), f"mean of {block}"
            seen[block.rows, block.columns] += 1
    assert (seen.tril() == torch.ones_like(seen).tril()).all()


@pytest.mark.parametrize("decay", DECAYS)
def test_tiles_that_follow_each_other_share_what_they_are_made_of_and_stay_right(decay):
    """In the order of a loop over blocks, in another, and with other heads between: nothing stale is used."""
    rule = make_rule(decay, 450, batch=1, N=3)
    M = dense(rule)
    places = [(slice(r, min(r + 70, 450)), slice(c, c + 50)) for c in range(0, 400, 50) for r in range(0, 450, 70)]
    shuffled = [places[k] for k in torch.randperm(len(places), generator=torch.Generator().manual_seed(0))]
    for number, (rows, columns) in enumerate(places + shuffled):
        heads = [2] if number % 3 == 0 else None
        want = M[:, heads or [0, 1, 2, 3], rows, columns]
        assert torch.allclose(rule.tile(rows, columns, heads), want, rtol=1e-11, atol=1e-13), (rows, columns)


def test_blocks_that_another_mixer_cut_are_read_as_well():
    """Parts of a sum share blocks, with references of their own."""
    rule = make_rule("head", 150, batch=1)
    M = dense(rule)
    for block in (
        Block(slice(100, 120), slice(0, 90), reference=93),
        Block(slice(90, 150), slice(0, 70), reference=75),
    ):
        assert distance(rule.mix(block, None, None, Workspace())[:, ::2], M[:, :, block.rows, block.columns]) < BOUND


@pytest.mark.parametrize(("length", "extreme"), [(3, None), (70, None), (70, 0.0), (20, -400.0)], ids=str)
@pytest.mark.parametrize("decay", DECAYS)
def test_gradients_are_those_of_the_recurrence(decay, length, extreme):
    rule = make_rule(decay, length, batch=1, extreme=extreme, N=3, heads=2, groups=1)
    leaves = [part.clone().requires_grad_() for part in (rule.q, rule.k, rule.beta, rule.decay)]
    v = torch.randn(1, length, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    flow = torch.randn(1, length, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ours = torch.autograd.grad((GatedDeltaRule(*leaves, rule.skip).apply(v) * flow).sum(), [*leaves, v])
    theirs = torch.autograd.grad((recurrence(*leaves, v) * flow).sum(), [*leaves, v])
    for name, our, their in zip(("q", "k", "beta", "decay", "v"), ours, theirs, strict=True):
        assert distance(our, their) < BOUND, name


def recurrence(q, k, beta, decay, v):
    """The rule as its papers write it, token by token, with the whole state."""
    heads, outputs = beta.shape[2], []
    q, k = (part.repeat_interleave(heads // part.shape[2], dim=2) for part in (q, k))
    v = v.unflatten(2, (heads, -1))
    state = v.new_zeros(*k[:, 0].shape, v.shape[-1])
    for t in range(k.shape[1]):
        state = decay[:, t].exp()[..., None] * state
        held = torch.einsum("bhn,bhnp->bhp", k[:, t], state)
        state = state + k[:, t, ..., None] * (beta[:, t, :, None] * (v[:, t] - held))[..., None, :]
        outputs.append(torch.einsum("bhn,bhnp->bhp", q[:, t], state))
    return torch.stack(outputs, dim=1).flatten(2)


def test_a_batch_is_its_texts_one_by_one():
    rule = make_rule("head", 66, batch=3)
    v = torch.randn(3, 66, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for text in range(3):
        part = slice(text, text + 1)
        alone = GatedDeltaRule(rule.q[part], rule.k[part], rule.beta[part], rule.decay[part], rule.skip)
        assert distance(alone.apply(v[part]), rule.apply(v)[part]) < BOUND


@pytest.mark.parametrize("decay", DECAYS)
def test_products_grow_linearly_with_the_text(decay):
    """Eight times the text: a quadratic product would take 64 times as long."""
    seconds = []
    for length in (512, 4096):
        rule, best = make_rule(decay, length, batch=1, dtype=torch.float32, N=16, P=16), float("inf")
        for _ in range(3):
            fresh = GatedDeltaRule(rule.q, rule.k, rule.beta, rule.decay, torch.zeros(64))
            started = time.process_time()  # other processes' time does not count
            fresh.apply_transposed(torch.ones(1, length, 64))
            best = min(best, time.process_time() - started)
        seconds.append(best)
    assert seconds[1] < 24 * seconds[0]
