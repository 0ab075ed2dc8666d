"""How far two computations of one thing may lie apart.

A sum adds its products in another order where memory is aligned otherwise, where there are other threads or another
batch, or where the processor has other instructions. So the same model run twice, saved and loaded, or run inside
another pass gives the same but for rounding, and equality to the bit is asked only where nothing is computed: of stored
tensors, masks, zeros above the diagonal and at padding.
"""

import torch

#: In steps of eps of the largest value. A sum of n products is off by some sqrt(n) eps of their size, and the layers,
#: norms and softmaxes after it make that larger: with 2 eps of noise on every sum of every test model, two runs lay
#: 330 steps apart at most, and without noise 20. What is wrong is off by thousands of times more.
STEPS = 500


def assert_equal_to_rounding(found, expected, what="the two"):
    """Hold one computation against another of the same thing, in the precision that both have."""
    assert found.shape == expected.shape, f"{what}: shapes {tuple(found.shape)} and {tuple(expected.shape)}"
    assert found.dtype == expected.dtype, f"{what}: {found.dtype} and {expected.dtype}"
    found, expected, eps = found.detach().double(), expected.detach().double(), torch.finfo(found.dtype).eps
    apart, size = float((found - expected).abs().max()), float(expected.abs().max())
    assert apart <= STEPS * eps * size, f"{what} are {apart / (eps * size or 1):.0f} eps apart, allowed {STEPS}"


def assert_same_weights(model, other):
    """Hold the stored tensors of two models against each other, to the bit."""
    tensors, others = model.state_dict(), other.state_dict()
    assert tensors.keys() == others.keys()
    different = [name for name, tensor in tensors.items() if not torch.equal(tensor, others[name])]
    assert not different, f"other weights: {different}"
