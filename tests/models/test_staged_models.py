"""VMamba and MambaVision whole: against plain functions of their tensors, released files, stages of a trace."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import mambascope
from dense_reference import distance
from grid_reference import grid_mixer, line_mixer
from mambascope import methods, readouts
from mambascope.errors import CheckpointError, InputError, UnsupportedModelError
from mambascope.loading import released_mambavision as released
from mambascope.methods.gradients import gradient_x_input
from mambascope.methods.mamba_lrp import LRP_VISION, mamba_lrp
from mambascope.models.mambavision import MambaVision, MambaVisionConfig
from mambascope.models.mambavision.windows import from_windows, to_windows
from mambascope.models.vmamba import VMamba, VMambaConfig
from mambascope.operators.attention_layer import AttentionLayer
from mambascope.operators.grid_convolution import GridConvolutionMixer
from mambascope.trace import capture
from mambascope.trace.rules import PropagationRules
from rounding import assert_equal_to_rounding, assert_same_weights
from small_staged_models import small

#: Every case of a product: most of them are left to `make test-slow`.
pytestmark = pytest.mark.product

#: float64: a dozen layers of a few hundred terms each.
BOUND = 1e-10


def pictures(batch, height, width, dtype=torch.float64):
    return torch.randn(batch, 2, height, width, dtype=dtype, generator=torch.Generator().manual_seed(0))


def layer_norm(w, name, x):
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])


def mlp(w, name, x):
    inner = F.gelu(F.linear(x, w[f"{name}.fc1.weight"], w[f"{name}.fc1.bias"]))
    return F.linear(inner, w[f"{name}.fc2.weight"], w[f"{name}.fc2.bias"])


def conv(w, name, x, stride=2):
    return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), stride=stride, padding=1)


def vmamba(model, picture):
    """Return the logits of one picture from the model's tensors by name."""
    w = model.state_dict()
    x = layer_norm(w, "patch_embed.2", conv(w, "patch_embed.0", picture[None]).permute(0, 2, 3, 1))
    x = conv(w, "patch_embed.5", F.gelu(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    x = layer_norm(w, "patch_embed.7", x)[0]
    for stage, depth in enumerate(model.config.depths):
        for layer in range(depth):
            block, grid = f"layers.{stage}.blocks.{layer}", tuple(x.shape[:2])
            mixer = model.get_submodule(f"{block}.op")
            y = grid_mixer(mixer, layer_norm(w, f"{block}.norm", x).flatten(0, 1), grid).y
            x = x + y.unflatten(0, grid)
            x = x + mlp(w, f"{block}.mlp", layer_norm(w, f"{block}.norm2", x))
        if stage + 1 < len(model.config.depths):
            x = conv(w, f"layers.{stage}.downsample.1", x.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
            x = layer_norm(w, f"layers.{stage}.downsample.3", x)
    pooled = layer_norm(w, "classifier.norm", x).mean(dim=(0, 1))
    return w["classifier.head.weight"] @ pooled + w["classifier.head.bias"]


def batch_norm(w, name, x, eps=1e-5):
    mean, var, scale, bias = (w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return ((x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + eps)) * scale[:, None, None] + bias[
        :, None, None
    ]


def attention(w, name, x, heads):
    """Return softmax attention of tokens (L, E), head by head."""
    q, k, v = F.linear(x, w[f"{name}.qkv.weight"], w[f"{name}.qkv.bias"]).chunk(3, dim=1)
    size, out = x.shape[1] // heads, []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        out.append((q[:, part] @ k[:, part].t() / size**0.5).softmax(dim=1) @ v[:, part])
    return F.linear(torch.cat(out, dim=1), w[f"{name}.proj.weight"], w[f"{name}.proj.bias"])


def mambavision(model, picture, w=None, scaled=False):
    """Return the logits of one picture from tensors by name; `scaled` weighs layers' outputs by gamma_1 and gamma_2."""
    w = model.state_dict() if w is None else w
    x = F.relu(batch_norm(w, "patch_embed.conv_down.1", conv(w, "patch_embed.conv_down.0", picture[None]), 1e-4))
    x = F.relu(batch_norm(w, "patch_embed.conv_down.4", conv(w, "patch_embed.conv_down.3", x), 1e-4))
    for stage, depth in enumerate(model.config.depths):
        for layer in range(depth):
            block = f"levels.{stage}.blocks.{layer}"
            if stage < 2:
                inner = F.gelu(batch_norm(w, f"{block}.norm1", conv(w, f"{block}.conv1", x, 1)), approximate="tanh")
                x = x + batch_norm(w, f"{block}.norm2", conv(w, f"{block}.conv2", inner, 1))
                continue
            if layer == 0:
                rows, columns, side = *x.shape[2:], model.config.windows[stage]
                x = F.pad(x, (0, -columns % side, 0, -rows % side))
            for top in range(0, x.shape[2], side):
                for left in range(0, x.shape[3], side):
                    here = x[0, :, top : top + side, left : left + side].flatten(1).t()
                    normed = layer_norm(w, f"{block}.norm1", here)
                    if layer >= {3: 2, 2: 1}[depth]:
                        y = attention(w, f"{block}.mixer", normed, model.config.num_heads[stage])
                    else:
                        y = line_mixer(model.get_submodule(f"{block}.mixer"), normed).y
                    here = here + (y * w[f"{block}.gamma_1"] if scaled else y)
                    y = mlp(w, f"{block}.mlp", layer_norm(w, f"{block}.norm2", here))
                    here = here + (y * w[f"{block}.gamma_2"] if scaled else y)
                    x[0, :, top : top + side, left : left + side] = here.t().unflatten(1, (side, side))
            if layer == depth - 1:
                x = x[:, :, :rows, :columns]
        if stage < 3:
            x = F.conv2d(x, w[f"levels.{stage}.downsample.reduction.0.weight"], stride=2, padding=1)
    return w["head.weight"] @ batch_norm(w, "norm", x)[0].mean(dim=(1, 2)) + w["head.bias"]


@pytest.mark.parametrize("size", [(16, 16), (24, 34)], ids=["16x16", "24x34"])
def test_vmamba_computes_what_its_parts_say(size):
    model, batch = small("vmamba"), pictures(2, *size)
    logits = model(pixel_values=batch).logits
    for row, picture in enumerate(batch):
        assert distance(logits[row], vmamba(model, picture)) < BOUND


@pytest.mark.parametrize("size", [(48, 48), (50, 70)], ids=["48x48", "50x70"])
def test_mambavision_computes_what_its_parts_say(size):
    """Pictures whose windows fit, and some that must be filled with zeros."""
    model, batch = small("mambavision"), pictures(2, *size)
    logits = model(pixel_values=batch).logits
    for row, picture in enumerate(batch):
        assert distance(logits[row], mambavision(model, picture)) < BOUND


def test_windows_are_squares_of_the_picture():
    x = torch.arange(2 * 5 * 7.0).view(2, 5, 7, 1)
    windows = to_windows(x, 3)
    assert windows.shape == (2 * 2 * 3, 9, 1)
    assert windows[1, :, 0].tolist() == x[0, :3, 3:6, 0].flatten().tolist()
    assert windows[5, :, 0].tolist() == [x[0, 3, 6, 0], 0, 0, x[0, 4, 6, 0], 0, 0, 0, 0, 0]
    assert torch.equal(from_windows(windows, 3, 5, 7), x)


@pytest.mark.parametrize("kind", ["vmamba", "mambavision"])
def test_tokens_can_be_given_in_place_of_pictures(kind):
    model, batch = small(kind), pictures(1, 48, 48)
    logits = model(pixel_values=batch).logits
    assert_equal_to_rounding(model(inputs_embeds=model.embed(batch)).logits, logits)
    for wrong in ({}, {"pixel_values": batch, "inputs_embeds": model.embed(batch)}):
        with pytest.raises(InputError, match="pass exactly one of"):
            model(**wrong)
    with pytest.raises(InputError, match="135 tokens do not make a square"):
        model(inputs_embeds=model.embed(pictures(1, 36, 60)))
    with pytest.raises(InputError, match=r"shape \(batch, 2, height, width\)"):
        model(pixel_values=batch[:, :1])


def vmamba_shapes(depths, E, classes=1000, N=1):
    """Return name and shape of every tensor of a released VMamba (`v05_noz`) whose first stage has width E."""
    shapes = {
        "patch_embed.0.weight": (E // 2, 3, 3, 3),
        "patch_embed.0.bias": (E // 2,),
        "patch_embed.2.weight": (E // 2,),
        "patch_embed.2.bias": (E // 2,),
        "patch_embed.5.weight": (E, E // 2, 3, 3),
        "patch_embed.5.bias": (E,),
        "patch_embed.7.weight": (E,),
        "patch_embed.7.bias": (E,),
    }
    for stage, depth in enumerate(depths):
        W = E * 2**stage
        rank = -(-W // 16)
        for layer in range(depth):
            shapes |= {
                f"layers.{stage}.blocks.{layer}.{name}": shape
                for name, shape in {
                    "norm.weight": (W,),
                    "norm.bias": (W,),
                    "op.x_proj_weight": (4, rank + 2 * N, W),
                    "op.dt_projs_weight": (4, W, rank),
                    "op.dt_projs_bias": (4, W),
                    "op.A_logs": (4 * W, N),
                    "op.Ds": (4 * W,),
                    "op.out_norm.weight": (W,),
                    "op.out_norm.bias": (W,),
                    "op.in_proj.weight": (W, W),
                    "op.conv2d.weight": (W, 1, 3, 3),
                    "op.out_proj.weight": (W, W),
                    "norm2.weight": (W,),
                    "norm2.bias": (W,),
                    "mlp.fc1.weight": (4 * W, W),
                    "mlp.fc1.bias": (4 * W,),
                    "mlp.fc2.weight": (W, 4 * W),
                    "mlp.fc2.bias": (W,),
                }.items()
            }
        if stage + 1 < len(depths):
            shapes |= {
                f"layers.{stage}.downsample.1.weight": (2 * W, W, 3, 3),
                f"layers.{stage}.downsample.1.bias": (2 * W,),
                f"layers.{stage}.downsample.3.weight": (2 * W,),
                f"layers.{stage}.downsample.3.bias": (2 * W,),
            }
    return shapes | {
        "classifier.norm.weight": (W,),
        "classifier.norm.bias": (W,),
        "classifier.head.weight": (classes, W),
        "classifier.head.bias": (classes,),
    }


def mambavision_shapes(depths, E, stem, classes=1000, scaled=False):
    """Return name and shape of every tensor of a released MambaVision whose first stage has width E."""

    def norm(name, width):
        of_running = {f"{name}.running_mean": (width,), f"{name}.running_var": (width,)}
        return of_running | {f"{name}.weight": (width,), f"{name}.bias": (width,), f"{name}.num_batches_tracked": ()}

    shapes = {"patch_embed.conv_down.0.weight": (stem, 3, 3, 3), "patch_embed.conv_down.3.weight": (E, stem, 3, 3)}
    shapes |= norm("patch_embed.conv_down.1", stem) | norm("patch_embed.conv_down.4", E)
    for stage, depth in enumerate(depths):
        W, half, rank = E * 2**stage, E * 2**stage // 2, -(-E * 2**stage // 16)
        attending = range(depth // 2 + 1, depth) if depth % 2 else range(depth // 2, depth)
        for layer in range(depth):
            block = f"levels.{stage}.blocks.{layer}"
            if stage < 2:
                shapes |= norm(f"{block}.norm1", W) | norm(f"{block}.norm2", W)
                shapes |= {f"{block}.conv{n}.weight": (W, W, 3, 3) for n in (1, 2)}
                shapes |= {f"{block}.conv{n}.bias": (W,) for n in (1, 2)}
                continue
            mixer = {
                "A_log": (half, 8),
                "D": (half,),
                "in_proj.weight": (W, W),
                "x_proj.weight": (rank + 16, half),
                "dt_proj.weight": (half, rank),
                "dt_proj.bias": (half,),
                "conv1d_x.weight": (half, 1, 3),
                "conv1d_z.weight": (half, 1, 3),
                "out_proj.weight": (W, W),
            }
            joint = {"qkv.weight": (3 * W, W), "qkv.bias": (3 * W,), "proj.weight": (W, W), "proj.bias": (W,)}
            shapes |= {f"{block}.mixer.{n}": s for n, s in (joint if layer in attending else mixer).items()}
            shapes |= {f"{block}.norm{n}.{kind}": (W,) for n in (1, 2) for kind in ("weight", "bias")}
            shapes |= {f"{block}.mlp.fc1.weight": (4 * W, W), f"{block}.mlp.fc1.bias": (4 * W,)}
            shapes |= {f"{block}.mlp.fc2.weight": (W, 4 * W), f"{block}.mlp.fc2.bias": (W,)}
            if scaled:
                shapes |= {f"{block}.gamma_1": (W,), f"{block}.gamma_2": (W,)}
        if stage + 1 < len(depths):
            shapes[f"levels.{stage}.downsample.reduction.0.weight"] = (2 * W, W, 3, 3)
    return shapes | norm("norm", W) | {"head.weight": (classes, W), "head.bias": (classes,)}


def test_the_tiny_models_have_the_released_names_and_shapes():
    with torch.device("meta"):
        models = VMamba(VMambaConfig(num_labels=1000)), MambaVision(MambaVisionConfig(num_labels=1000))
    found = [{name: tuple(value.shape) for name, value in model.state_dict().items()} for model in models]
    assert found[0] == vmamba_shapes((2, 2, 8, 2), 96)
    expected = mambavision_shapes((1, 3, 8, 4), 80, 32)
    assert found[1] == {n: shape for n, shape in expected.items() if not n.endswith("num_batches_tracked")}


def synthetic(shapes, seed=0):
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            tensors[name] = 0.5 + torch.rand(shape, generator=draw)
        else:
            tensors[name] = 0.3 * torch.randn(shape, generator=draw)
    return tensors


def test_released_files_are_loaded(tmp_path):
    tensors = synthetic(vmamba_shapes((1, 1, 2, 1), 16, classes=5))
    torch.save({"model": tensors, "epoch": 1}, tmp_path / "vmamba.pth")
    save_file(tensors, tmp_path / "vmamba.safetensors")
    for name in ("vmamba.pth", "vmamba.safetensors"):
        model, tokenizer = mambascope.load(tmp_path / name)
        assert isinstance(model, VMamba)
        assert tokenizer is None
        assert (model.config.depths, model.config.hidden_sizes) == ([1, 1, 2, 1], [16, 32, 64, 128])
        state = model.state_dict()
        assert state.keys() == tensors.keys()
        assert all(torch.equal(state[key], value) for key, value in tensors.items())
    tensors = synthetic(mambavision_shapes((1, 1, 3, 2), 16, 8, classes=5))
    torch.save({"state_dict": {f"module.{key}": value for key, value in tensors.items()}}, tmp_path / "mv.pth.tar")
    save_file({f"model.{key}": value for key, value in tensors.items()}, tmp_path / "mv.safetensors")
    for name in ("mv.pth.tar", "mv.safetensors"):
        with pytest.warns(UserWarning, match="2, 4, 8, 16 heads by stage.*windows for pictures of 224 pixels"):
            model, _ = mambascope.load(tmp_path / name)
        assert isinstance(model, MambaVision)
        assert (model.config.depths, model.config.num_heads) == ([1, 1, 3, 2], [2, 4, 8, 16])
        state = model.state_dict()
        assert all(torch.equal(state[key], tensors[key]) for key in state)
        assert len(state) == sum(not key.endswith("num_batches_tracked") for key in tensors)


def test_a_gate_is_seen_in_the_shapes(tmp_path):
    shapes = vmamba_shapes((1, 1), 16, classes=5)
    for stage, width in ((0, 16), (1, 32)):
        shapes[f"layers.{stage}.blocks.0.op.in_proj.weight"] = (2 * width, width)
        shapes[f"layers.{stage}.blocks.0.op.conv2d.bias"] = (width,)
    save_file(synthetic(shapes), tmp_path / "gated.safetensors")
    config = mambascope.load(tmp_path / "gated.safetensors")[0].config
    assert (config.gated, config.conv_bias, config.expand) == (True, True, 1.0)


def test_factors_of_layers_outputs_are_multiplied_in(tmp_path):
    """As in the released models from MambaVision-B on."""
    tensors = synthetic(mambavision_shapes((1, 1, 3, 2), 16, 8, classes=5, scaled=True))
    path = tmp_path / "scaled.pth.tar"
    torch.save({"state_dict": tensors}, path)
    model = released.load_released(path, windows=(8, 8, 3, 2), dtype=torch.float64)
    assert not any("gamma" in key for key in model.state_dict())
    weights = {key: value.double() for key, value in tensors.items()}
    plain = dict(model.state_dict())
    plain |= {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    unscaled = MambaVision(model.config).double()
    unscaled.load_state_dict({key: value for key, value in plain.items() if "gamma" not in key})
    picture = torch.randn(3, 48, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = mambavision(unscaled, picture, weights, scaled=True)
        assert distance(model(pixel_values=picture[None]).logits[0], expected) < BOUND
        assert distance(unscaled(pixel_values=picture[None]).logits[0], expected) > 1e-3
    assert model.config.windows == [8, 8, 3, 2]


def test_files_of_another_layout_are_refused(tmp_path):
    tensors = synthetic(vmamba_shapes((1, 1), 16, classes=5))
    del tensors["layers.0.blocks.0.op.Ds"]
    save_file(tensors, tmp_path / "short.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks 1 tensor .*Ds"):
        mambascope.load(tmp_path / "short.safetensors")
    tensors = synthetic(vmamba_shapes((1, 1), 16, classes=5) | {"layers.0.blocks.0.op.out_scale": (3,)})
    save_file(tensors, tmp_path / "long.safetensors")
    with pytest.raises(CheckpointError, match="out_scale"):
        mambascope.load(tmp_path / "long.safetensors")
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(2)}, other)
    with pytest.raises(CheckpointError, match="is a file"):
        mambascope.load(other)
    with pytest.raises(CheckpointError, match="not a MambaVision checkpoint"):
        released.load_released(other)


@pytest.mark.parametrize("kind", ["vmamba", "mambavision"])
def test_a_model_is_saved_and_loaded(tmp_path, kind):
    model = small(kind, torch.float32)
    model.save_pretrained(tmp_path)
    batch = pictures(1, 48, 48, torch.float32)
    again, _ = mambascope.load(tmp_path)
    assert type(again) is type(model)
    assert_same_weights(again, model)
    assert_equal_to_rounding(again(pixel_values=batch).logits, model(pixel_values=batch).logits)


def test_stages_of_a_trace():
    """VMamba's tokens are fewer from stage to stage; methods read one stage at a time."""
    model, batch = small("vmamba"), pictures(2, 16, 24)
    trace = capture(model, pixel_values=batch)
    assert [record.name for record in trace.branches] == [
        "layers.0.blocks.0.op",
        "layers.1.blocks.0.op",
        "layers.1.blocks.1.op",
    ]
    assert max(trace.reconstruction_error) < BOUND
    with pytest.raises(InputError, match=r"different numbers of tokens \(24, 6\)"):
        trace.shape  # noqa: B018
    first, second = trace.stages
    assert (first.shape, second.shape) == ((2, 24), (2, 6))
    assert [record.captured.grid for record in trace.branches] == [(4, 6), (2, 3), (2, 3)]
    identity = torch.eye(6, dtype=torch.float64)
    means = [second.operator(k).scan.tile(slice(0, 6), slice(0, 6)).mean(dim=1) for k in range(2)]
    assert distance(methods.rollout(second), (identity + means[1]) @ (identity + means[0])) < BOUND
    assert methods.latim(first).shape == (2, 1, 24, 24)


def test_attention_layers_of_mambavision_are_read_too():
    model, batch = small("mambavision"), pictures(1, 48, 96)
    trace = capture(model, pixel_values=batch)
    assert max(trace.reconstruction_error) < BOUND
    assert [type(trace.operator(k)) for k in range(5)] == [GridConvolutionMixer] * 2 + [AttentionLayer] + [
        GridConvolutionMixer,
        AttentionLayer,
    ]
    third, fourth = trace.stages
    assert (third.shape, fourth.shape) == ((2, 9), (2, 4)), "two windows of each picture"
    total = third.operator(2).bias()
    for block, tile in third.operator(2).contribution_tiles():
        total[:, block.rows] += tile.sum(dim=-1).transpose(1, 2)
    assert distance(total, third.branches[2].captured.y) < BOUND


@pytest.mark.parametrize("kind", ["vmamba", "mambavision"])
def test_relevance_down_to_the_pixels(kind):
    """Without rules it is gradient times input, by autograd through the model itself."""
    model, batch = small(kind), pictures(1, 48, 48)
    leaf = batch.clone().requires_grad_()
    with torch.enable_grad():
        tokens = model.embed(leaf)
        logit = model(inputs_embeds=tokens).logits[0, 2]
        of_tokens, of_pixels = torch.autograd.grad(logit, [tokens, leaf])
    found = mamba_lrp(capture(model, pixel_values=batch), readouts.class_(2), rules=PropagationRules(), pixels=True)
    assert distance(found.scores, (tokens * of_tokens).sum(dim=-1)) < BOUND
    assert distance(found.pixels, (leaf * of_pixels).sum(dim=1)) < BOUND
    assert (
        distance(gradient_x_input(capture(model, pixel_values=batch), readouts.class_(2)).scores, found.scores) < BOUND
    )
    if kind == "mambavision":  # its last stages have attention, for which there is no rule
        return
    frozen = mamba_lrp(capture(model, pixel_values=batch), readouts.class_(2), rules=LRP_VISION, pixels=True)
    assert distance(frozen.value, logit) < BOUND
    assert distance(frozen.pixels, found.pixels) > 1e-3


def test_a_folder_that_brings_its_own_code_is_refused(tmp_path):
    """Its names and its configuration are its authors'; the file of its weights is read all the same."""
    settings = '{"model_type": "mambavision", "auto_map": {"AutoConfig": "theirs.MambaVisionConfig"}}'
    (tmp_path / "config.json").write_text(settings)
    with pytest.raises(UnsupportedModelError, match="pass the path of its weights file"):
        mambascope.load(tmp_path)
