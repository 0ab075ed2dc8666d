"""Models that read text and pictures: the text is read, and what else is given is refused by its name."""

import pytest
import torch

from hybrids import hybrid_model
from mambascope import capture
from mambascope.errors import InputError
from mambascope.methods.gradients import gradient_x_input
from mambascope.trace.differentiate import differentiate

IMAGE, VIDEO = 48, 49
PATCHES, GRID = torch.zeros(16, 24), torch.tensor([[1, 4, 4]])


@pytest.fixture(scope="module", params=["qwen3_5", "qwen3_5_moe"])
def model(request):
    model = hybrid_model(request.param)
    model.config.image_token_id, model.config.video_token_id = IMAGE, VIDEO
    return model


def texts(*, placeholder=None):
    """Two texts of nine tokens; with a placeholder, four tokens of the second stand for a picture."""
    ids = torch.arange(1, 19).reshape(2, 9)
    if placeholder is not None:
        ids[1, 3:7] = placeholder
    return ids


@pytest.mark.parametrize(
    "given",
    [
        {"pixel_values": PATCHES, "image_grid_thw": GRID},
        {"pixel_values": PATCHES},
        {"image_grid_thw": GRID},
        {"pixel_values_videos": PATCHES, "video_grid_thw": GRID},
        {"mm_token_type_ids": torch.ones(2, 9, dtype=torch.int32)},
    ],
    ids=lambda given: next(iter(given)),
)
def test_a_picture_beside_the_text_is_refused_by_its_name(model, given):
    name = next(iter(given))
    kind = type(model).__name__
    says = (
        rf"^{name} cannot be used here: of {kind} mambascope reads the text only, and (pictures|videos) in it are not"
    )
    for ids in (texts(), texts(placeholder=IMAGE)):
        with pytest.raises(InputError, match=says):
            capture(model, input_ids=ids, **given)
        with pytest.raises(InputError, match=says):
            differentiate(model, lambda outputs: outputs.logits[:, -1, 1], input_ids=ids, **given)


@pytest.mark.parametrize(
    ("token", "says"),
    [
        (IMAGE, f"{IMAGE}, the image_token_id .* for pictures; "),
        (VIDEO, f"{VIDEO}, the video_token_id .* for videos; "),
    ],
)
def test_a_token_that_stands_for_a_picture_is_refused_with_its_place(model, token, says):
    with pytest.raises(InputError, match=f"^token 3 of text 1 is {says}"):
        capture(model, input_ids=texts(placeholder=token))


def test_the_text_alone_is_read(model):
    """With what a processor returns beside a text that has no picture: kinds that are all text."""
    trace = capture(model, input_ids=texts(), mm_token_type_ids=torch.zeros(2, 9, dtype=torch.int32))
    assert gradient_x_input(trace, lambda outputs: outputs.logits[:, -1, 1]).scores.shape[-1] == 9
