"""Settings of all tests; shape annotations are checked at run time from the package's import on."""

import os
import zlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import shape_checks

shape_checks.install("mambascope")

import pytest
import torch
import transformers

from data_folder import data_folder

transformers.logging.set_verbosity_error()
# The models are tiny: threads that wait for each other cost more than they give.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
# Fresh memory holds NaN in this mode: what is read before it was written fails every time, not now and then.
torch.use_deterministic_algorithms(True, warn_only=True)


#: Of the tests in a product, one in so many runs each time; the others are marked `wide`.
SHARE = 8
#: On a machine so slow that all of these would take too long, none of a product runs, and a quarter of other cases.
SLOW = "MAMBASCOPE_SLOW_MACHINE" in os.environ


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items):
    """Mark most tests of every product, such as each method on each family, as wide: which, their names decide."""
    for item in items:
        number, product = zlib.crc32(item.nodeid.encode()), item.get_closest_marker("product")
        if (product and (SLOW or number % SHARE)) or (SLOW and hasattr(item, "callspec") and number % 4):
            item.add_marker(pytest.mark.wide)


@pytest.fixture
def data():
    """The folder of real data sets, or a skip that says where it was looked for."""
    folder = data_folder()
    if folder is None:
        pytest.skip("the data folder is absent: set MAMBASCOPE_DATA")
    return folder
