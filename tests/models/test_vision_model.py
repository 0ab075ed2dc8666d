"""Vision Mamba: against loops written from the equations, its sizes, its files, and the released checkpoints' names."""

import argparse

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import mambascope
from dense_reference import distance
from mambascope.errors import CheckpointError, InputError
from mambascope.loading.released_vim import load_released
from mambascope.models.vim import VisionMamba, VisionMambaConfig
from mambascope.models.vim.embedding import interpolated
from rounding import assert_equal_to_rounding, assert_same_weights
from vision_models import CLASS_TOKENS, SIZES, pictures, vision_mamba
from vision_reference import embed, run

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

#: float64: a few hundred products chained over two layers.
BOUND = 1e-12


@torch.no_grad()
def looped(model, picture):
    """Return the logits of one picture (c, H, W): the recurrence token by token, without any matrix of attention."""
    stream = embed(model, picture)
    for block in model.layers:
        x = stream / torch.sqrt((stream**2).mean(dim=1, keepdim=True) + model.config.norm_epsilon) * block.norm.weight
        mixer = block.mixer
        u, z = (x @ mixer.in_proj.weight.t() + mixer.in_proj.bias).chunk(2, dim=1)
        forwards = one_way(u, mixer.conv1d, mixer.x_proj, mixer.dt_proj, mixer.A_log, mixer.D)
        backwards = one_way(u.flip(0), mixer.conv1d_b, mixer.x_proj_b, mixer.dt_proj_b, mixer.A_b_log, mixer.D_b)
        o = (forwards + backwards.flip(0)) * z / (1 + torch.exp(-z))
        o = o / 2 if model.config.divide_output else o
        stream = stream + o @ mixer.out_proj.weight.t() + mixer.out_proj.bias
    features = stream / torch.sqrt((stream**2).mean(dim=1, keepdim=True) + model.config.norm_epsilon)
    features = features * model.norm_f.weight
    place = {"middle": (len(features) - 1) // 2, "first": 0, "last": -1}.get(model.config.class_token)
    pooled = features.mean(dim=0) if place is None else features[place]
    return model.head.weight @ pooled + model.head.bias


def one_way(u, conv, x_proj, dt_proj, A_log, skip):
    length, channels = u.shape
    taps, rank, N = conv.weight.shape[-1], dt_proj.weight.shape[1], A_log.shape[1]
    state, out = torch.zeros(channels, N, dtype=u.dtype), []
    for k in range(length):
        a = conv.bias.clone()
        for t in range(taps):
            if k - taps + 1 + t >= 0:
                a = a + conv.weight[:, 0, t] * u[k - taps + 1 + t]
        s = a / (1 + torch.exp(-a))
        dt, B, C = (x_proj.weight @ s).split([rank, N, N])
        step = torch.log1p(torch.exp(dt_proj.weight @ dt + dt_proj.bias))
        state = torch.exp(-step[:, None] * torch.exp(A_log)) * state + (step * s)[:, None] * B
        out.append(state @ C + skip * s)
    return torch.stack(out)


@pytest.mark.parametrize("divide", [True, False], ids=["averaged", "summed"])
@pytest.mark.parametrize("place", CLASS_TOKENS)
@pytest.mark.parametrize(("patch", "stride"), [(4, 4), (4, 2), (3, 4)], ids=lambda n: f"{n}")
def test_it_computes_what_the_equations_say(place, patch, stride, divide):
    model = vision_mamba(torch.float64, class_token=place, patch_size=patch, stride=stride, divide_output=divide)
    batch = pictures(model, 3)
    with torch.no_grad():
        outputs = model(pixel_values=batch)
        dense = [run(model, embed(model, picture)) for picture in batch]
    assert outputs.last_hidden_state.shape == (3, model.config.grid().tokens, 6)
    for row, picture in enumerate(batch):
        assert distance(outputs.logits[row], looped(model, picture)) < BOUND
        assert distance(dense[row].logits, looped(model, picture)) < BOUND, "the dense reference of other tests"
        assert distance(outputs.last_hidden_state[row], dense[row].features) < BOUND


def test_tokens_can_be_given_in_place_of_pictures():
    model = vision_mamba()
    batch = pictures(model, 2)
    outputs = model(pixel_values=batch)
    assert_equal_to_rounding(model(inputs_embeds=model.embed(batch)).logits, outputs.logits)
    for wrong in ({}, {"pixel_values": batch, "inputs_embeds": model.embed(batch)}):
        with pytest.raises(InputError, match="pass exactly one of"):
            model(**wrong)
    with pytest.raises(InputError, match=r"shape \(batch, 2, height, width\)"):
        model(pixel_values=batch[:, :1])
    with pytest.raises(InputError, match="fewer than one patch"):
        model(pixel_values=batch[..., :3])
    with pytest.raises(InputError, match="class_token"):
        VisionMambaConfig(class_token="centre")
    with pytest.raises(InputError, match="image_size"):
        VisionMambaConfig(image_size=[1, 2, 3])


@pytest.mark.parametrize("place", CLASS_TOKENS)
def test_pictures_of_other_sizes_get_interpolated_positions(place):
    """The class token's own embedding is no part of the picture: it moves along, unchanged."""
    model = vision_mamba(torch.float64, class_token=place)
    known, wanted = model.config.grid(), model.config.grid(20, 36)
    assert (known.rows, known.columns, wanted.rows, wanted.columns) == (3, 4, 5, 9)
    positions = model.pos_embed.detach()
    assert torch.equal(interpolated(positions, known, known), positions)
    moved = interpolated(positions, known, wanted)
    assert moved.shape == (1, wanted.tokens, 6)
    patches, token = positions[0], None
    if place != "none":
        at = {"middle": 6, "first": 0, "last": 12}[place]
        token, patches = patches[at], torch.cat([patches[:at], patches[at + 1 :]])
        at = {"middle": 22, "first": 0, "last": 45}[place]
        assert torch.equal(moved[0, at], token)
        moved = torch.cat([moved[:, :at], moved[:, at + 1 :]], dim=1)
    expected = F.interpolate(patches.t().reshape(1, 6, 3, 4), size=(5, 9), mode="bicubic", align_corners=False)
    assert_equal_to_rounding(moved[0], expected[0].reshape(6, 45).t())
    assert model(pixel_values=pictures(model, 1, (20, 36))).last_hidden_state.shape == (1, wanted.tokens, 6)


def test_what_is_left_of_a_picture_is_not_read():
    """13 x 18 pixels hold 3 x 4 patches of 4."""
    model = vision_mamba()
    larger = pictures(model, 1, (13, 18))
    read = larger[..., :12, :16].clone()
    larger[..., 12:, :], larger[..., 16:] = torch.nan, torch.nan
    assert_equal_to_rounding(model(pixel_values=larger).logits, model(pixel_values=read).logits)


def test_it_learns():
    """Gradients reach every weight, and a few steps fit a handful of pictures."""
    torch.manual_seed(0)
    model = VisionMamba(VisionMambaConfig(**SIZES | {"hidden_size": 16}))
    batch, labels = pictures(model, 8), torch.arange(8) % 5
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(model(pixel_values=batch).logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(parameter.grad.any() for parameter in model.parameters())
    assert losses[-1] < 0.2 * losses[0]


def kept(config):
    """A configuration without what says where it came from."""
    return {key: value for key, value in config.to_dict().items() if key not in ("architectures", "_name_or_path")}


@pytest.mark.parametrize("place", ["middle", "none"])
def test_it_is_saved_and_loaded(tmp_path, place):
    model = vision_mamba(class_token=place, stride=2, id2label={k: f"kind {k}" for k in range(5)})
    model.save_pretrained(tmp_path)
    batch = pictures(model, 2)
    with torch.no_grad():
        expected = model(pixel_values=batch).logits
        for again in (VisionMamba.from_pretrained(tmp_path), mambascope.load(tmp_path)[0]):
            assert isinstance(again, VisionMamba)
            assert_same_weights(again, model)
            assert_equal_to_rounding(again(pixel_values=batch).logits, expected)
            assert again.config.id2label[3] == "kind 3"
            assert kept(again.config) == kept(model.config)
    (tmp_path / "config.json").write_text('{"model_type": "vision-mamba", "class_token": "centre"}')
    with pytest.raises(CheckpointError, match="class_token"):
        mambascope.load(tmp_path)


def released_shapes(E, layers, positions=197, classes=1000, N=16, patch=16):
    """Return name and shape of every tensor of a released Vim of width E."""
    D, rank = 2 * E, -(-E // 16)
    shapes = {
        "cls_token": (1, 1, E),
        "pos_embed": (1, positions, E),
        "patch_embed.proj.weight": (E, 3, patch, patch),
        "patch_embed.proj.bias": (E,),
        "norm_f.weight": (E,),
        "head.weight": (classes, E),
        "head.bias": (classes,),
    }
    for n in range(layers):
        shapes |= {f"layers.{n}.norm.weight": (E,)} | {
            f"layers.{n}.mixer.{name}": shape
            for name, shape in {
                "A_log": (D, N),
                "A_b_log": (D, N),
                "D": (D,),
                "D_b": (D,),
                "in_proj.weight": (2 * D, E),
                "conv1d.weight": (D, 1, 4),
                "conv1d.bias": (D,),
                "conv1d_b.weight": (D, 1, 4),
                "conv1d_b.bias": (D,),
                "x_proj.weight": (rank + 2 * N, D),
                "x_proj_b.weight": (rank + 2 * N, D),
                "dt_proj.weight": (D, rank),
                "dt_proj.bias": (D,),
                "dt_proj_b.weight": (D, rank),
                "dt_proj_b.bias": (D,),
                "out_proj.weight": (E, D),
            }.items()
        }
    return shapes


def synthetic(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("E", [192, 384, 768], ids=["tiny", "small", "base"])
def test_a_model_has_the_released_names_and_shapes(E):
    with torch.device("meta"):
        model = VisionMamba(VisionMambaConfig(hidden_size=E, num_labels=1000))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes == released_shapes(E, 24)


@pytest.mark.parametrize(("E", "layers"), [(192, 24), (384, 2), (768, 1)], ids=["tiny", "small", "base"])
def test_a_released_file_is_loaded(tmp_path, E, layers):
    tensors = synthetic(released_shapes(E, layers))
    path = tmp_path / "vim.pth"
    args = argparse.Namespace(model="vim_patch16_224_bimambav2_midclstok_div2", input_size=224)
    torch.save({"model": tensors, "epoch": 299, "args": args, "optimizer": {"state": {}}}, path)
    model, tokenizer = mambascope.load(path)
    assert tokenizer is None
    assert not model.training
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.stride) == (E, layers, 16)
    assert (config.image_size, config.class_token, config.divide_output) == ([224, 224], "middle", True)
    assert (config.num_labels, config.time_step_rank) == (1000, E // 16)
    state = model.state_dict()
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[name], value) for name, value in tensors.items())


def test_a_released_file_of_another_stride_or_kind(tmp_path):
    """27 x 27 positions of pictures with 224 pixels are a stride of 8."""
    small = {"E": 16, "layers": 1, "classes": 3}
    overlapping = synthetic(released_shapes(positions=27 * 27 + 1, **small))
    save_file(overlapping, tmp_path / "vim.safetensors")
    model = load_released(tmp_path / "vim.safetensors")
    assert (model.config.stride, model.config.class_token) == (8, "middle")
    assert model.config.grid().tokens == 730
    assert load_released(tmp_path / "vim.safetensors", image_size=432).config.stride == 16
    pooled = synthetic(released_shapes(positions=196, **small))
    del pooled["cls_token"]
    torch.save({"module." + name: value for name, value in pooled.items()}, tmp_path / "pooled.pth")
    assert load_released(tmp_path / "pooled.pth", dtype=torch.float64).config.class_token == "none"
    args = argparse.Namespace(model="vim_tiny_patch16_224_bimambav2_clstok")
    torch.save({"model": synthetic(released_shapes(**small)), "args": args}, tmp_path / "first.pth")
    config = load_released(tmp_path / "first.pth").config
    assert (config.class_token, config.divide_output) == ("first", False)


def test_files_that_are_no_released_vim_are_refused(tmp_path):
    shapes = released_shapes(16, 1, classes=3)
    odd = tmp_path / "odd.pth"
    torch.save({"model": synthetic(shapes | {"pos_embed": (1, 191, 16)})}, odd)
    with pytest.raises(CheckpointError, match="190 positions of patches"):
        mambascope.load(odd)
    other = tmp_path / "other.pth"
    torch.save({"model": {"weight": torch.ones(2)}}, other)
    with pytest.raises(CheckpointError, match="not a Vim checkpoint"):
        load_released(other)
    with pytest.raises(CheckpointError, match="is a file"):
        mambascope.load(other)
    short = synthetic(shapes)
    del short["layers.0.mixer.D_b"]
    torch.save({"model": short}, tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match=r"lacks 1 tensor .*D_b"):
        mambascope.load(tmp_path / "short.pth")
    del short["pos_embed"]
    torch.save({"model": short}, tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match="lacks a tensor"):
        mambascope.load(tmp_path / "short.pth")
    code = tmp_path / "code.pth"
    code.write_bytes(odd.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        mambascope.load(code)
