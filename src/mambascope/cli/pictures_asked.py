"""Whether the command's argument is a picture or a text; what looks like a picture's path but is not one is refused."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from mambascope.cli.asked import short
from mambascope.errors import InputError
from mambascope.inputs.pictures import SUFFIXES, is_picture

#: How a path may begin and a text does not: /, ./, ../, ~/, ~name/, and a drive's letter.
ROOTED = re.compile(r"/|\.{1,2}/|~[\w.-]*/|[A-Za-z]:[\\/]")


def is_asked(
    argument: str,
    forced: bool,
    as_text: bool,
    *,
    patch: str | None,
    stage: int | None,
    keep_size: bool,
    verb: str = "explain",
) -> bool:
    """Return whether the command is asked about a picture.

    Args:
        argument: The text, or the path of the picture.
        forced: Whether `--image` is given.
        as_text: Whether `--text` is given.
        patch, stage, keep_size: Options that apply only to pictures.
        verb: The command's verb.

    Raises:
        InputError: if it looks like a picture's path but is not one, or options for pictures are given with a text.
    """
    if forced and as_text:
        raise InputError("--image and --text contradict each other; give one of them")
    if forced or (not as_text and is_picture(argument)):
        return True
    given = {"--patch": patch is not None, "--stage": stage is not None, "--keep-size": keep_size}
    if any(given.values()):
        option = next(name for name, there in given.items() if there)
        found = "--text says that this is a text" if as_text else f"there is no picture {short(argument)}"
        raise InputError(f"{option} is for pictures, but {found}")
    if not as_text:
        check_text(argument, verb)
    return False


def check_text(argument: str, verb: str) -> None:
    """Raise InputError if this looks like a path but is not a picture; the message says how to pass it as a text.

    Args:
        argument: The text, or the path of the picture; `-`, for standard input, is a text.
        verb: The command's verb.
    """
    if not looks_like_path(argument):
        return
    whole = "add --text to use these words themselves"
    if os.path.isfile(argument):
        read = f"mambascope {verb} - < {shlex.quote(argument)}"
        raise InputError(f"{short(argument)} is a file but not a picture; for the text in it run {read}, or {whole}")
    found = "is a folder" if os.path.isdir(argument) else "does not exist"
    raise InputError(f"{short(argument)} looks like the path of a picture but {found}; check it, or {whole}")


def looks_like_path(argument: str) -> bool:
    """Return whether an argument is more likely a path than a text.

    It is if a file of that name exists; if it begins as a path does (`/bin/ls`, `./cat`, `~/cat`) or ends as a picture
    does (`cat.png`), without spaces; with spaces if it does both. `and/or`, `e.g.` and sentences are texts.
    """
    if "\n" in argument or argument == "-":
        return False
    if os.path.isfile(argument):  # unlike Path.is_file, says no to a text too long for a name
        return True
    begins, ends = ROOTED.match(argument) is not None, Path(argument).suffix.lower() in SUFFIXES
    return (begins and ends) if re.search(r"\s", argument) else (begins or ends)


def check_alone(**options: object) -> None:
    """Raise InputError if options that apply only to texts are given with a picture."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        hint = "; name a patch with --patch ROW,COLUMN" if given[0] == "position" else ""
        raise InputError(f"--{given[0].replace('_', '-')} is for texts, but this is a picture{hint}")
