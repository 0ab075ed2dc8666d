"""A released Vim without its arguments: what is assumed is plausible and told, and anything else is asked for."""

import argparse

import pytest
import torch

from mambascope.errors import InputError
from mambascope.inputs.preparation import own_size
from mambascope.loading.load import load
from mambascope.models.vim import VisionMamba, VisionMambaConfig
from refusals import refused
from small_staged_models import small


def tensors_of(patch, positions, width=16):
    """Return the tensors of a Vim with patches of this side and this many positions of patches."""
    side = round(positions**0.5)
    config = VisionMambaConfig(
        image_size=side * patch, patch_size=patch, hidden_size=width, num_hidden_layers=1, num_labels=3
    )
    tensors = dict(VisionMamba(config).state_dict())
    tensors["pos_embed"] = torch.zeros(1, positions + 1, width)
    return tensors


@pytest.mark.parametrize(("patch", "size"), [(4, 32), (8, 64), (2, 16), (16, 64)])
def test_pictures_of_another_size_are_not_taken_for_224_pixels(tmp_path, patch, size):
    torch.save({"model": tensors_of(patch, (size // patch) ** 2)}, tmp_path / "vim.pth")
    message = refused(tmp_path / "vim.pth", "do not have at a plausible stride")
    assert f"say which size with image_size={size} if patches are side by side" in message
    held = torch.load(tmp_path / "vim.pth", weights_only=True)
    torch.save(held | {"args": {"model": "vim_midclstok_div2"}}, tmp_path / "vim.pth")  # then nothing is assumed
    config = load(tmp_path / "vim.pth", image_size=size)[0].config
    assert (config.image_size, config.stride) == ([size, size], patch)


@pytest.mark.parametrize(("positions", "stride"), [(14 * 14, 16), (27 * 27, 8)])
def test_the_published_sizes_are_assumed_and_told(tmp_path, positions, stride):
    torch.save({"model": tensors_of(16, positions)}, tmp_path / "vim.pth")
    with pytest.warns(UserWarning, match=rf"pictures of 224 pixels, a stride of {stride} .*class token in the middle"):
        model, _ = load(tmp_path / "vim.pth")
    assert (model.config.image_size, model.config.stride) == ([224, 224], stride)


@pytest.mark.parametrize("kind", [dict, lambda values: argparse.Namespace(**values)], ids=["dict", "Namespace"])
def test_the_arguments_settle_it(tmp_path, kind):
    args = kind({"model": "vim_tiny_patch4_32_clstok", "input_size": 32, "lr": 1e-3, "device": torch.device("cpu")})
    torch.save({"model": tensors_of(4, 64), "args": args}, tmp_path / "vim.pth")
    config = load(tmp_path / "vim.pth")[0].config
    assert (config.image_size, config.stride, config.class_token) == ([32, 32], 4, "first")


@pytest.mark.parametrize("value", ["abc", -1, 10**30, 2.5, [32], float("nan"), None])
def test_arguments_of_the_wrong_kind(tmp_path, value):
    args = {"model": "vim_midclstok_div2", "input_size": value}
    torch.save({"model": tensors_of(4, 64), "args": args}, tmp_path / "vim.pth")
    refused(tmp_path / "vim.pth", "the arguments in it cannot be used: input_size|plausible stride")
    torch.save({"model": tensors_of(4, 64), "args": {"model": [1], "input_size": 32}}, tmp_path / "vim.pth")
    refused(tmp_path / "vim.pth", "the arguments in it cannot be used: model")


RANKS = [
    ("patch_embed.proj.weight", (16, 3)),
    ("patch_embed.proj.weight", ()),
    ("pos_embed", (17,)),
    ("pos_embed", (1, 0, 16)),
    ("layers.0.mixer.A_log", (32,)),
    ("layers.0.mixer.dt_proj.weight", ()),
    ("layers.0.mixer.conv1d.weight", (4,)),
    ("head.weight", ()),
]


@pytest.mark.parametrize(("name", "shape"), RANKS)
def test_tensors_of_another_rank_are_named(tmp_path, name, shape):
    torch.save({"model": tensors_of(4, 64) | {name: torch.ones(shape)}}, tmp_path / "vim.pth")
    refused(
        tmp_path / "vim.pth",
        f"{name}'? has shape .*, (and in a Vim it has . axes|without any values)|positions of patches",
        image_size=32,
    )


@pytest.mark.parametrize("size", [0, -5, True, 10**12])
def test_the_size_asked_for_is_a_number_of_pixels(tmp_path, size):
    torch.save({"model": tensors_of(4, 64)}, tmp_path / "vim.pth")
    refused(tmp_path / "vim.pth", "image_size must be a number of pixels", InputError, image_size=size)


def test_the_windows_of_a_mambavision_follow_from_the_size_of_its_pictures(tmp_path):
    torch.save({"state_dict": small("mambavision", torch.float32).state_dict()}, tmp_path / "mv.pth.tar")
    with pytest.warns(UserWarning, match="heads by stage"):
        assert load(tmp_path / "mv.pth.tar", image_size=256)[0].config.windows == [8, 8, 16, 8]
    refused(tmp_path / "mv.pth.tar", "is not a multiple of 32", image_size=100)


def test_a_vmamba_resizes_pictures_to_the_size_that_it_was_trained_on(tmp_path):
    """It reads any size, so nothing else in it depends on this."""
    torch.save({"model": small("vmamba", torch.float32).state_dict()}, tmp_path / "vmamba.pth")
    for given, side in ((None, 224), (384, 384)):
        assert own_size(load(tmp_path / "vmamba.pth", image_size=given)[0]) == (side, side)


@pytest.mark.parametrize("name", ["tiny-mamba", "no-such-model"])
def test_a_size_is_refused_for_anything_but_a_released_file(name):
    with pytest.raises(InputError, match=f"image_size=32 is for files of Vim.* and {name} is no such file; leave it"):
        load(name, image_size=32)
