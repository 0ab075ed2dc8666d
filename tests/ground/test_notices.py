"""transformers' advice to install kernels is kept off in our passes and our `load`, and given in the user's own."""

import logging as python_logging
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers.utils import logging

import mambascope
from mambascope.loading.checkpoint import quiet
from mambascope.notices import KERNELS, kept_off
from mambascope.trace.running import running

TEXT = "The cat sat on the mat. The cat"
ADVICE, OTHER = "install a kernel", "something else"
OTHER_LOGGER = "transformers.models.mamba.modeling_mamba"


@pytest.fixture
def heard():
    """What transformers' loggers say, as a user sees it: with warnings, and with nothing said yet."""
    said = []

    class Ear(python_logging.Handler):
        def emit(self, record):
            said.append(record.getMessage())

    root, ear, verbosity = python_logging.getLogger("transformers"), Ear(), logging.get_verbosity()
    root.addHandler(ear)
    logging.set_verbosity_warning()
    python_logging.Logger.warning_once.cache_clear()
    yield said
    logging.set_verbosity(verbosity)
    root.removeHandler(ear)
    python_logging.Logger.warning_once.cache_clear()


@pytest.fixture
def loaded():
    return mambascope.load("tiny-mamba")


@pytest.fixture
def advised(loaded):
    """A model in whose passes transformers gives its advice and says something else, whatever the version says."""

    def speak(*_):
        logging.get_logger(KERNELS).warning_once(ADVICE)
        logging.get_logger(OTHER_LOGGER).warning_once(OTHER)

    handle = loaded[0].register_forward_pre_hook(speak)
    yield loaded
    handle.remove()


LAST = mambascope.readouts.token(-1, 0)
PASSES = {
    "capture": lambda model, ids: mambascope.capture(model, input_ids=ids),
    "gradients": lambda model, ids: mambascope.trace.differentiate.differentiate(
        model, lambda out: out.logits[:, -1, 0], input_ids=ids
    ),
    "relevance": lambda model, ids: mambascope.methods.mamba_lrp(mambascope.capture(model, input_ids=ids), LAST),
    "occlusion": lambda model, ids: mambascope.methods.occlusion(mambascope.capture(model, input_ids=ids), LAST),
    "knockout": lambda model, ids: mambascope.methods.knockout(
        mambascope.capture(model, input_ids=ids), LAST, targets=5
    ),
}


@pytest.mark.parametrize("name", PASSES)
def test_the_advice_is_kept_off_in_our_passes_and_given_in_the_users_own(advised, heard, name):
    model, tokenizer = advised
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    PASSES[name](model, ids)
    assert heard == [OTHER], "what is not about kernels is heard"
    with torch.no_grad():
        model(ids)
    assert [line for line in heard if line == ADVICE] == [ADVICE], "our pass has not used it up"


def test_what_the_installed_transformers_says_is_kept_off(loaded, heard):
    model, tokenizer = loaded
    mambascope.explain(model, tokenizer, TEXT)
    assert heard == []
    with torch.no_grad():
        model(tokenizer(TEXT, return_tensors="pt")["input_ids"])
    if not heard:
        pytest.skip("this version of transformers gives no advice")
    assert all("kernel" in line for line in heard)


def test_a_pass_that_raises_leaves_nothing_behind(loaded, heard):
    before = python_logging.Logger.warning_once, python_logging.Logger.info_once
    with pytest.raises(RuntimeError, match="on purpose"), running(loaded[0]):
        raise RuntimeError("on purpose")
    assert (python_logging.Logger.warning_once, python_logging.Logger.info_once) == before
    logging.get_logger(KERNELS).warning_once(ADVICE)
    assert heard == [ADVICE]


@pytest.mark.parametrize("ours", [running, lambda model: quiet()], ids=["pass", "load"])
def test_other_threads_hear_everything_meanwhile(loaded, heard, ours):
    def say():
        logging.get_logger(KERNELS).warning_once(ADVICE)
        logging.get_logger(KERNELS).warning("said every time")

    with ours(loaded[0]), ThreadPoolExecutor(1) as another:
        say()
        assert heard == []
        another.submit(say).result()
        assert heard == [ADVICE, "said every time"]
        assert logging.get_verbosity() == logging.WARNING


def test_loading_says_nothing_and_uses_nothing_up(heard):
    logger = logging.get_logger(OTHER_LOGGER)
    with quiet():
        logger.warning_once(OTHER)
        logger.error("a report")
        logging.get_logger(KERNELS).warning_once(ADVICE)
    assert heard == []
    logger.warning_once(OTHER)
    logging.get_logger(KERNELS).warning_once(ADVICE)
    assert heard == [OTHER, ADVICE]


def test_what_one_block_keeps_off_stays_off_when_a_block_inside_it_ends(heard):
    logger = logging.get_logger(OTHER_LOGGER)
    with kept_off("transformers"):
        with kept_off(KERNELS):
            logger.warning_once(OTHER)
        logger.warning_once(OTHER)
    assert heard == []
    with kept_off("transformers.models.mam"):
        logger.warning(OTHER)
    assert heard == [OTHER], "names end at dots"


def test_loads_that_overlap_give_back_warnings_and_bars(heard):
    """The first to begin ends first, so that what the second found is the silence of the first."""
    logging.enable_progress_bar()
    before = list(warnings.filters)
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def first():
        with quiet():
            first_in.set()
            assert second_in.wait(10)
        first_out.set()

    def second():
        assert first_in.wait(10)
        with quiet():
            second_in.set()
            assert first_out.wait(10)
            assert not logging.is_progress_bar_enabled()

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(first), threads.submit(second)]:
            done.result()
    assert list(warnings.filters) == before
    assert logging.is_progress_bar_enabled()
    assert logging.get_verbosity() == logging.WARNING


def test_loggers_without_handlers_are_kept_off_as_well(capsys):
    """Python has a handler of last resort, which prints."""
    logger = python_logging.getLogger("a library")
    logger.propagate = False
    with kept_off("a library"):
        logger.warning("kept off")
    logger.warning("said")
    assert capsys.readouterr().err == "said\n"
