"""Messages, which may quote what a file holds."""

import pytest

from mambascope import errors
from mambascope.inputs.picture_forms import in_rgb

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.MambascopeError)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_holds_nothing_that_a_terminal_obeys(kind):
    found = str(kind("a \x1b[2Jb\u202ec\x00\x00\x00d é 好\nline\ttab\udc80"))
    assert found == "a �[2Jb�c�d é 好\nline\ttab�"


def test_names_of_files_are_shown_without_their_control_characters():
    with pytest.raises(errors.InputError) as refused:
        in_rgb("no\x1b]0;title\x07picture.png")
    assert str(refused.value) == "there is no picture no�]0;title�picture.png"
