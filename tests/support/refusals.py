"""A checkpoint that is refused: which exception, in one sentence, within bounds of time and memory."""

import pytest

from bounded import bounded
from mambascope.errors import CheckpointError
from mambascope.loading.load import load


def refused(where, match, error=CheckpointError, *, seconds=20, mebibytes=300, **options):
    """Hold `load` to refusing in one printable line that matches, and return the message."""
    with bounded(seconds, mebibytes), pytest.raises(error, match=match) as raised:
        load(where, **options)
    message = str(raised.value)
    assert type(raised.value) is error
    assert message.isprintable(), repr(message)
    assert len(message) < 1500
    return message
