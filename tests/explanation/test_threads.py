"""Any number of threads gives the same scores, and a process takes as many as it is told to."""

import json
import os
import subprocess
import sys

import pytest
import torch

import mambascope
from mambascope.methods.registry import METHODS

TEXT = "Anna had a cat, and Anna had a dog."
#: Sums in another order, in float32, through four layers and back.
BOUND = 2e-4
#: These run whole texts many times, each of which is as good a test as one.
SLOW = ("occlusion", "knockout", "integrated-gradients", "smoothgrad", "random")


def with_threads(count, model, tokenizer, names):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return mambascope.explain(model, tokenizer, TEXT, method=names, progress=False)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["tiny-mamba", "tiny-hybrid"])
def test_scores_do_not_depend_on_the_number_of_threads(name):
    model, tokenizer = mambascope.load(name)
    kinds = {"scan", "attention"} if "hybrid" in name else {"scan"}
    names = [one.name for one in METHODS.values() if one.reads(kinds) and one.name not in SLOW]
    alone = with_threads(1, model, tokenizer, names)
    for one, other in zip(alone, with_threads(2, model, tokenizer, names), strict=True):
        assert (one.scores - other.scores).abs().max() <= BOUND * one.scores.abs().max(), one.method


def test_a_process_takes_the_threads_that_it_is_given():
    program = (
        "import torch, threading, mambascope\n"
        "mambascope.explain(*mambascope.load('tiny-mamba2'), 'Anna had a cat.', progress=False)\n"
        "import json; print(json.dumps([torch.get_num_threads(), threading.active_count()]))"
    )
    told = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=told, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [1, 1]
