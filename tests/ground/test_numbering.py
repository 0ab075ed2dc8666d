"""Numbers as people give them: one reading each, and a refusal in one sentence where there is none."""

import numpy as np
import pytest
import torch

from mambascope.errors import InputError
from mambascope.numbering import chosen_layers, read_layers, whole_number, whole_numbers

MEANT = {
    "3": (3, "3", " 3 ", "+3", np.int64(3), torch.tensor(3), slice(3, 4), [3], "3:4"),
    "6": (-1, "-1", 6, (-1,), slice(-1, None), "-1:"),
    "2 3": ([2, 3], (2, 3), range(2, 4), np.arange(2, 4), torch.tensor([2, 3]), slice(2, 4), "2:4", "2,3", "2, -4"),
    "0 2 4 6": (slice(None, None, 2), "::2", range(0, 7, 2), "0:8:2"),
    "5 2": ([5, 2], "5,2", [np.int64(5), 2]),
    "6 5": ("6:4:-1", slice(6, 4, -1)),
    "0 1 2 3 4 5 6": ("all", ":", slice(None), range(7), "0:99"),
}


@pytest.mark.parametrize(
    ("given", "meant"), [(given, meant) for meant, forms in MEANT.items() for given in forms], ids=repr
)
def test_layers_have_one_reading(given, meant):
    read = read_layers(given)
    assert chosen_layers(read, 7) == [int(number) for number in meant.split()]
    assert read_layers(read) == read, "what is read already comes back as it is"


NO_LAYERS = (2.0, "2.0", True, None, "x", "", [], (), range(0), {1, 2}, [1.0], [True], ["1"], [[1]], "2:x", "1:2:3:4")
NO_LAYERS += ("0:4:0", slice(0, 4, 0), slice(1.0, None), slice("a"), np.array([1.5]), np.bool_(True), "1_0", "²", "1,")


@pytest.mark.parametrize("given", NO_LAYERS, ids=repr)
def test_what_names_no_layers_is_refused(given):
    with pytest.raises(InputError, match=r"--layer .* is neither a number, a range such as 15: or 3:7") as caught:
        read_layers(given, "--layer")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("9:12", "no layers in 9:12; this model has layers 0–6"),
        (slice(9, 12), "no layers in 9:12; this model has layers 0–6"),
        (slice(None, 0), "no layers in :0; this model"),
        ("5:2:1", "no layers in 5:2:1; this model"),
        (7, "layer 7 does not exist; this model has layers 0–6"),
        ([0, -8], "layer -8 does not exist"),
        ([2, 2], "layer 2 is named twice"),
        ([2, -5], "layer 2 is named twice"),
    ],
    ids=repr,
)
def test_layers_that_are_not_there_are_refused(given, words):
    with pytest.raises(InputError, match=words):
        chosen_layers(read_layers(given), 7)


#: Billions of numbers that take no memory: to read them one by one would take hours.
ENDLESS = (range(10**30), torch.zeros(1, dtype=torch.long).expand(10**12), np.broadcast_to(np.int64(1), 10**12))


@pytest.mark.parametrize("given", ENDLESS, ids=["range", "tensor", "array"])
def test_endless_numbers_are_refused_at_once(given):
    with pytest.raises(InputError, match="is neither a number"):
        read_layers(given if isinstance(given, range) else given[: 10**9])
    with pytest.raises(InputError, match=r"^position must be .* whole number"):
        whole_numbers(given, "position")


def test_a_model_of_one_layer_has_layer_0():
    with pytest.raises(InputError, match=r"layer 1 does not exist; this model has layers 0$"):
        chosen_layers(1, 1)


@pytest.mark.parametrize(
    "given", [2.0, "2", True, None, [2], np.float32(2), np.bool_(True), torch.tensor([2])], ids=repr
)
def test_a_number_that_is_not_whole_is_refused(given):
    with pytest.raises(InputError, match="the target must be a whole number, found ") as caught:
        whole_number(given, "the target")
    assert "\n" not in str(caught.value)


def test_whole_numbers_of_every_library_are_read():
    for given in (2, np.int32(2), np.uint8(2), torch.tensor(2)):
        read = whole_number(given, "it")
        assert (type(read), read) == (int, 2)
    for several in ([1, 2], (1, 2), range(1, 3), np.array([1, 2]), torch.tensor([1, 2])):
        assert whole_numbers(several, "them") == (1, 2)
    assert whole_numbers(np.int64(4), "them") == (4,)
