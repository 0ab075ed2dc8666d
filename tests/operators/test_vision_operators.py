"""Scans in several orders as one operator: against dense matrices that are permuted and added, and against Vim."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dense_reference import distance
from mambascope.errors import InputError, ReconstructionError
from mambascope.operators import affine_map, naive
from mambascope.operators.affine import AffineMixer
from mambascope.operators.affine_map import AffineMap
from mambascope.operators.blocks import Block, Workspace, split
from mambascope.operators.convolution import CausalConvolution
from mambascope.operators.multi_scan import MultiScan
from mambascope.operators.permutation import Part, Permutation, as_slice
from mambascope.operators.selective_scan import SelectiveScan
from mambascope.operators.softmax_attention import SoftmaxAttention
from mambascope.operators.state_space_dual import StateSpaceDual
from mambascope.operators.sum_of_maps import SumOfMaps
from mambascope.operators.token_mixer import TokenMixer
from mambascope.trace import capture
from vision_models import CLASS_TOKENS, pictures, vision_mamba
from vision_reference import biases, contributions, embed, hidden, implicit_attention, run

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

#: float64: sums of a few hundred terms of either sign; float32: the same with its unit roundoff of 6e-8.
BOUND = {torch.float64: 1e-12, torch.float32: 1e-5}
KINDS = ("mamba", "mamba2", "attention")
D, N, E = 6, 3, 5


def scan_of(kind, length, batch, draw):
    """Return a scan and its dense matrices per channel (b, D, L, L)."""

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=draw)

    skip = normal(D)
    if kind == "attention":
        future = torch.full((length, length), -torch.inf, dtype=torch.float64).triu(1)
        scan = SoftmaxAttention((normal(batch, 2, length, length) + future).softmax(dim=-1), skip * 0)
        return scan, scan.p.repeat_interleave(D // 2, dim=1)
    if kind == "mamba":
        scan = SelectiveScan(
            normal(batch, length, D).exp() / 3, -normal(D, N).exp(), *normal(2, batch, length, N), skip
        )
        dense = naive.selective_scan_matrix
    else:
        B, C = normal(2, batch, length, 1, N)
        scan = StateSpaceDual(normal(batch, length, 3).exp() / 3, -normal(3).exp(), B, C, skip)
        dense = naive.state_space_dual_matrix
    alpha = torch.stack([dense(scan.dt[row], scan.A, scan.B[row], scan.C[row]) for row in range(batch)])
    return scan, alpha.repeat_interleave(D // alpha.shape[1], dim=1)


def orders_of(length, count, draw):
    """Return random orders, the first two forwards and backwards."""
    orders = [torch.arange(length), torch.arange(length).flip(0)]
    orders += [torch.randperm(length, generator=draw) for _ in range(count - 2)]
    return [Permutation(order) for order in orders[:count]]


def multi_scan(kind, length, batch, count, seed=0):
    """Return a multi-scan and its dense matrices."""
    draw = torch.Generator().manual_seed(seed)
    parts, total = [], 0
    for number, order in enumerate(orders_of(length, count, draw)):
        scan, alpha = scan_of(kind, length, batch, draw)
        weight = 1.0 + number / 2
        parts.append(Part(scan, order, weight))
        steps = order.tokens.argsort()
        total = total + weight * alpha[:, :, steps][..., steps]
    return MultiScan(tuple(parts)), total


def per_channel(scan, tile):
    return scan.channels(tile)


@pytest.mark.parametrize("length", [1, 2, 13, 40], ids=lambda n: f"L{n}")
@pytest.mark.parametrize("count", [1, 2, 4], ids=lambda n: f"{n}orders")
@pytest.mark.parametrize("kind", KINDS)
def test_a_multi_scan_is_the_sum_of_permuted_matrices(kind, count, length):
    scan, dense = multi_scan(kind, length, 2, count)
    assert isinstance(scan, TokenMixer)
    assert scan.causal == (count == 1 or length == 1)
    draw = torch.Generator().manual_seed(1)
    v, w = torch.randn(2, length, D, dtype=torch.float64, generator=draw), torch.randn(2, length, generator=draw)
    w = w.double()
    bound = BOUND[torch.float64]
    assert distance(scan.apply(v), torch.einsum("bdij,bjd->bid", dense, v)) < bound
    assert distance(scan.apply_transposed(v), torch.einsum("bdij,bid->bjd", dense, v)) < bound
    assert distance(scan.pull(w), torch.einsum("bij,bi->bj", dense.mean(dim=1), w)) < bound
    whole, some = slice(0, length), torch.randperm(length, generator=draw)[: (length + 1) // 2]
    assert distance(per_channel(scan, scan.tile(whole, whole)), dense) < bound
    assert distance(per_channel(scan, scan.tile(some, whole)), dense[:, :, some]) < bound
    part = slice(length // 3, length - length // 4)
    assert distance(per_channel(scan, scan.tile(part, part)), dense[:, :, part, part]) < bound
    one = scan.tile(whole, whole, [scan.maps - 1])
    assert distance(one[:, 0], dense[:, -1]) < bound
    skips = [part.scale * part.mixer.skip for part in scan.parts]
    assert distance(scan.skip + 1, sum(skips) + 1) < bound


@pytest.mark.parametrize("count", [2, 4], ids=lambda n: f"{n}orders")
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_whole_rows_hold_every_pair_once(kind, count):
    length, taps = 29, 3
    scan, dense = multi_scan(kind, length, 2, count)
    draw = torch.Generator().manual_seed(1)
    written = torch.randn(2, taps, D, length, dtype=torch.float64, generator=draw)
    gate = torch.randn(2, length, D, dtype=torch.float64, generator=draw)
    padded = torch.nn.functional.pad(dense, (0, taps - 1))
    mixed = sum(padded[..., k : k + length] * written[:, k, :, None] for k in range(taps))
    mixed = mixed * gate.transpose(1, 2)[..., None]
    for size in (1, 4, 29, 64):
        seen = torch.zeros(length, length)
        for coarse in scan.blocks(taps):
            for block in split(coarse, size, size):
                seen[block.rows, block.columns] += 1
                assert block.shape[1] == length
                own, bound = gate[:, block.rows], BOUND[torch.float64]
                tile = scan.mix(block, written, own, Workspace())
                assert distance(tile, mixed[:, :, block.rows]) < bound
                assert distance(scan.mix(block, None, None, Workspace()), dense[:, :, block.rows]) < bound
                assert distance(scan.mean(block, None, None, Workspace()), dense[:, :, block.rows].mean(dim=1)) < bound
                mean = scan.mean(block, written, own, Workspace())
                assert distance(mean, mixed[:, :, block.rows].mean(dim=1)) < bound
        assert (seen == 1).all()
    narrow = Block(slice(3, 11), slice(5, 9))
    tile = scan.mix(narrow, written[..., narrow.columns], gate[:, narrow.rows], Workspace())
    assert distance(tile, mixed[:, :, narrow.rows, narrow.columns]) < BOUND[torch.float64]


def test_an_order_holds_every_token_once():
    for wrong in ([0, 1, 1], [1, 2, 3]):
        with pytest.raises(InputError, match="must contain each token's number exactly once"):
            Permutation(torch.tensor(wrong))
    order = Permutation(torch.tensor([2, 0, 1]))
    values = torch.tensor([[10.0, 11.0, 12.0]])
    assert order.read(values).tolist() == [[12, 10, 11]]
    assert torch.equal(order.restore(order.read(values)), values)
    assert order.steps_of(slice(0, 2)) == slice(1, 3)
    assert as_slice(torch.tensor([4, 2, 3])).tolist() == [4, 2, 3]
    assert as_slice(torch.tensor([2, 4])).tolist() == [2, 4]


def mixer_of(kind, length, batch, count, taps, silu=True, seed=0):
    """Return a sum of permuted maps with its x, and its contributions (b, L, L, E) and biases (b, L, E) from loops."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=draw)

    x, W_x, b_x, W_o, b_o = normal(batch, length, E), normal(D, E), normal(D), normal(E, D), normal(E)
    parts, T, beta = [], 0, b_o
    for number, order in enumerate(orders_of(length, count, draw)):
        scan, alpha = scan_of(kind, length, batch, draw)
        conv, conv_bias, gate = normal(D, taps), normal(D), normal(batch, length, D)
        own = AffineMixer(order.read(x), scan, W_x, b_x, CausalConvolution(conv), conv_bias, gate, W_o, None, silu=silu)
        parts.append(Part(own, order, 1.0 + number / 2))
        steps = order.tokens.argsort()
        vectors, constants = [], []
        for row in range(batch):
            u = own.x[row] @ W_x.t()
            a = naive.convolution(u + b_x, conv, conv_bias)
            constant = naive.convolution((u + b_x) * 0 + b_x, conv, conv_bias)
            known = (alpha[row], scan.skip), (a, gate[row], W_o)
            vectors.append(naive.contribution_vectors(*known[0], u, conv, *known[1])[steps][:, steps])
            constants.append(naive.bias_vectors(*known[0], constant, *known[1])[steps])
        T = T + (1.0 + number / 2) * torch.stack(vectors)
        beta = beta + (1.0 + number / 2) * torch.stack(constants)
    return SumOfMaps(x, tuple(parts), b_o), T, beta


def tiled(operator):
    """Return all contributions from tiles."""
    missing = 0 if operator.causal else torch.nan  # a causal map's blocks leave out the future
    shape = (*operator.x.shape[:2], operator.length, operator.W_o.shape[0])
    T = torch.full(shape, missing, dtype=operator.x.dtype)
    for block, tile in operator.contribution_tiles():
        T[:, block.rows, block.columns] = tile.permute(0, 2, 3, 1)
    return T


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(KINDS),
    length=st.integers(1, 24),
    batch=st.integers(1, 3),
    count=st.integers(1, 4),
    taps=st.integers(1, 5),
    elements=st.sampled_from([1, 1 << 12, 1 << 24]),
    seed=st.integers(0, 99),
)
def test_any_orders_any_sizes(kind, length, batch, count, taps, elements, seed):
    """Tiles of any size, rows and reversed scans agree with loops over the permuted tokens."""
    operator, T, beta = mixer_of(kind, length, batch, count, taps, seed=seed)
    assert isinstance(operator, AffineMap)
    y, bound = T.sum(dim=2) + beta, 1e-12
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(affine_map, "TILE_ELEMENTS", elements)
        assert distance(tiled(operator), T) < bound
    assert distance(operator.output(), y) < bound
    assert distance(operator.bias(), beta) < bound
    assert operator.residual("secant") < bound
    target = seed % length
    vectors, own_bias = operator.contributions(target)
    assert distance(vectors, T[:, target]) < bound
    assert distance(own_bias, beta[:, target]) < bound
    q = torch.randn(batch, length, E, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert distance(operator.pull(q), torch.einsum("bie,bije->bj", q, T)) < 1e-11, "sums of products that cancel"


@pytest.mark.parametrize("rule", ["silu", "identity"])
def test_other_rules_leave_the_residual_that_they_report(rule):
    operator, _, beta = mixer_of("mamba", 17, 2, 4, 3)
    total = operator.bias(rule)
    for block, tile in operator.contribution_tiles(rule):
        total[:, block.rows] += tile.sum(dim=-1).transpose(1, 2)
    y = operator.output()
    residual = float((total - y).norm() / y.norm())
    assert residual > 0.05
    assert residual == pytest.approx(operator.residual(rule), rel=1e-9)
    with pytest.raises(InputError, match="target 17 is not a position"):
        operator.contributions(17)


def cross_scan(rows, columns):
    """Return VMamba's four orders (arXiv 2401.10166): by rows, by columns, and both backwards."""
    by_rows = torch.arange(rows * columns)
    by_columns = by_rows.view(rows, columns).t().flatten()
    return [Permutation(tokens) for tokens in (by_rows, by_columns, by_rows.flip(0), by_columns.flip(0))]


def test_a_cross_scan_of_four_is_one_operator():
    """On a picture of 3 x 5 patches, each direction token by token along its own path."""
    draw = torch.Generator().manual_seed(0)
    length, parts = 15, []
    for order in cross_scan(3, 5):
        scan, _ = scan_of("mamba", length, 1, draw)
        parts.append(Part(scan, order))
    scan = MultiScan(tuple(parts))
    s = torch.randn(1, length, D, dtype=torch.float64, generator=draw)
    expected = torch.zeros_like(s)
    for part in parts:
        state = torch.zeros(D, N, dtype=torch.float64)
        for step, token in enumerate(part.permutation.tokens.tolist()):
            own = part.mixer
            decay = torch.exp(own.dt[0, step, :, None] * own.A)
            state = decay * state + (own.dt[0, step] * s[0, token])[:, None] * own.B[0, step]
            expected[0, token] += state @ own.C[0, step] + own.skip * s[0, token]
    assert distance(scan.apply(s) + scan.skip * s, expected) < 1e-12
    assert not scan.causal
    by_tiles = torch.einsum("bdij,bjd->bid", scan.tile(slice(0, 15), slice(0, 15)), s)
    assert distance(by_tiles + scan.skip * s, expected) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("place", CLASS_TOKENS)
@pytest.mark.parametrize("grid", [(3, 4), (13, 15)], ids=["3x4", "13x15"])
def test_the_operator_rebuilds_every_mixer_of_vim(grid, place, dtype):
    """Against the outputs that hooks see in the model's own pass, in a batch of three."""
    size = (4 * grid[0], 4 * grid[1])
    model = vision_mamba(dtype, class_token=place, image_size=size)
    batch, seen = pictures(model, 3), []
    handles = [block.mixer.register_forward_hook(lambda m, x, y: seen.append(y)) for block in model.layers]
    with torch.no_grad():
        model(pixel_values=batch)
    for handle in handles:
        handle.remove()
    trace = capture(model, pixel_values=batch)
    length = grid[0] * grid[1] + (place != "none")
    assert trace.shape == (3, length)
    bound = BOUND[dtype]
    assert max(trace.reconstruction_error) < bound
    assert max(record.scan_error for record in trace.layers) < bound
    for layer, y in enumerate(seen):
        operator = trace.operator(layer)
        assert distance(operator.output(), y) < bound
        total = operator.bias()
        for block, tile in operator.contribution_tiles():
            total[:, block.rows] += tile.sum(dim=-1).transpose(1, 2)
        assert distance(total, y) < bound
        for target in {0, length // 2, length - 1}:
            vectors, beta = operator.contributions(target)
            assert distance(vectors.sum(dim=1) + beta, y[:, target]) < 2 * bound


@pytest.mark.parametrize("divide", [True, False], ids=["averaged", "summed"])
def test_vims_operator_is_the_dense_reference(divide):
    model = vision_mamba(torch.float64, divide_output=divide, image_size=(12, 20))
    batch = pictures(model, 2)
    trace = capture(model, pixel_values=batch)
    for row in range(2):
        with torch.no_grad():
            reference = run(model, embed(model, batch[row]))
        for layer, dense in enumerate(reference.layers):
            operator = trace.operator(layer)
            assert distance(tiled(operator)[row], contributions(dense)) < 1e-12
            assert distance(operator.bias()[row], biases(dense)) < 1e-12
            whole = slice(0, operator.length)
            assert distance(operator.scan.tile(whole, whole)[row], hidden(dense)) < 1e-12
            implicit = implicit_attention(dense)
            maps = torch.cat([tile[row] for _, tile in operator.implicit_tiles()], dim=1)
            assert distance(maps, implicit) < 1e-12
            assert distance(operator.implicit_mean()[row], implicit.mean(dim=0)) < 1e-12
            assert distance(operator.implicit_row(7)[row], implicit.mean(dim=0)[7]) < 1e-12
            weight = torch.arange(operator.length, dtype=torch.float64).expand(2, -1)
            assert distance(operator.implicit_pull(weight)[row], weight[0] @ implicit.mean(dim=0)) < 1e-12


def test_another_number_of_scans_is_refused(monkeypatch):
    model = vision_mamba()
    forward = type(model.layers[1].mixer)._scan

    def thrice(mixer, *args):
        if mixer.A_log.data_ptr() == model.layers[1].mixer.A_log.data_ptr():  # also in the copy that a pass runs
            forward(mixer, *args)
        return forward(mixer, *args)

    monkeypatch.setattr(type(model.layers[1].mixer), "_scan", thrice)
    expected = r"layers.1.mixer \(VimMixer\) called its scan 4 times .* expects 2 calls \(forwards, backwards\)"
    with pytest.raises(ReconstructionError, match=expected):
        capture(model, pixel_values=pictures(model))


def test_calls_in_another_order_are_noticed(monkeypatch):
    """The scan that runs first is the forward one; a model that did otherwise would not be rebuilt."""
    model = vision_mamba(torch.float64)
    kind = type(model.layers[0].mixer)

    def swapped(mixer, hidden_states):
        u, z = mixer.in_proj(hidden_states).transpose(1, 2).chunk(2, dim=1)
        backwards = mixer._scan(u.flip(-1), z.flip(-1), "_b", mixer.A_b_log).flip(-1)
        forwards = mixer._scan(u, z, "", mixer.A_log)
        return mixer.out_proj(((forwards + backwards) / 2).transpose(1, 2))

    monkeypatch.setattr(kind, "forward", swapped)
    with pytest.raises(ReconstructionError, match="cannot be rebuilt"):
        capture(model, pixel_values=pictures(model))
