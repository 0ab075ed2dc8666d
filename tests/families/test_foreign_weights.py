"""Weights that someone else trained with the original mamba_ssm package load into stock mixers and are explained."""

import io
import tarfile

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from mambascope import capture
from mambascope.families.patch_points import intercepting
from mambascope.methods import latim

pytestmark = pytest.mark.data


class Classifier(nn.Module):
    """The published network: patches of 4×4, two mixers in sequence without residual or norm, mean, linear."""

    def __init__(self, state):
        super().__init__()
        config = transformers.MambaConfig(hidden_size=64, state_size=16, conv_kernel=4, expand=2, num_hidden_layers=2)
        self.patches = nn.Conv2d(3, 64, kernel_size=4, stride=4)
        self.mixers = nn.ModuleList(
            transformers.models.mamba.modeling_mamba.MambaMixer(config, layer_idx=i) for i in range(2)
        )
        self.head = nn.Linear(64, 10)
        blocks = sorted({key.rsplit(".A_log", 1)[0] for key in state if key.endswith("A_log")})
        for mixer, prefix in zip(self.mixers, blocks, strict=True):
            part = {
                key.removeprefix(prefix + "."): value for key, value in state.items() if key.startswith(prefix + ".")
            }
            mixer.load_state_dict(part, strict=True)
        rest = {key: value for key, value in state.items() if not any(key.startswith(block) for block in blocks)}
        (patch_weight, patch_bias) = (value for value in rest.values() if value.shape[0] == 64)
        (head_weight, head_bias) = (value for value in rest.values() if value.shape[0] == 10)
        self.patches.load_state_dict({"weight": patch_weight, "bias": patch_bias})
        self.head.load_state_dict({"weight": head_weight, "bias": head_bias})

    def forward(self, pixels):
        x = self.patches(pixels).flatten(2).transpose(1, 2)
        for mixer in self.mixers:
            x = mixer(x)
        return self.head(x.mean(dim=1))


@pytest.fixture(scope="module")
def classifier():
    from data_folder import data_folder

    folder = data_folder()
    if folder is None:
        pytest.skip("the data folder is absent: set MAMBASCOPE_DATA")
    state = torch.load(folder / "weights_mamba_cifar10" / "mamba_cifar.pth", map_location="cpu", weights_only=True)
    return Classifier(state).eval()


def pictures(folder):
    """Return the JPEG test set as (n, 3, 32, 32) in [-1, 1] and its labels, classes in alphabetical order."""
    image = pytest.importorskip("PIL.Image")
    pixels, names = [], []
    with tarfile.open(folder / "vis_cifar10_jpg" / "cifar10_test_jpg.tar.xz") as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".jpg"):
                content = io.BytesIO(archive.extractfile(member).read())
                pixels.append(np.asarray(image.open(content).convert("RGB")))
                names.append(member.name.split("/")[-2])
    classes = sorted(set(names))
    stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return stacked, torch.tensor([classes.index(name) for name in names])


def test_the_mixers_are_rebuilt_and_explained(classifier):
    trace = capture(classifier, pixels=torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert max(trace.reconstruction_error) < 1e-5  # float32: sums of a few hundred products
    assert latim(trace).shape == (3, 2, 64, 64)


@pytest.mark.slow
def test_accuracy_through_our_scan_is_the_published_one(classifier, data):
    """About 63 % on the JPEG re-encoding (the author reports 66.45 % on the original pictures)."""
    pixels, labels = pictures(data)
    assert len(labels) == 10_000

    from mambascope.families.mamba import FAMILY
    from mambascope.trace.scanning import read_call, scanned

    class OurScan:
        def called(self, point, original, args, kwargs):
            call = read_call(FAMILY, args, kwargs)
            return call.give(scanned(FAMILY, call))

    right = 0
    with torch.no_grad(), intercepting(OurScan(), [FAMILY.scan_point]):
        for some, known in zip(pixels.split(50), labels.split(50), strict=True):  # fits the processor's cache
            right += int((classifier(some).argmax(dim=1) == known).sum())
    accuracy = right / len(labels)
    print(f"accuracy {accuracy:.4f}")
    assert accuracy == pytest.approx(0.63, abs=0.01)
