"""Whether `explain` is asked about a picture: a file that is one is, unless it is a text that names no file."""

from __future__ import annotations

from mambascope.cli.asked import short
from mambascope.errors import InputError
from mambascope.trace.pictures import is_picture


def is_asked(argument: str, forced: bool, *, patch: str | None, stage: int | None, keep_size: bool) -> bool:
    """Return whether the argument is a picture; raises InputError if options for pictures come with a text."""
    if forced or is_picture(argument):
        return True
    given = {"--patch": patch is not None, "--stage": stage is not None, "--keep-size": keep_size}
    if any(given.values()):
        option = next(name for name, there in given.items() if there)
        raise InputError(f"{option} is for pictures, and there is no picture {short(argument)}")
    return False


def check_alone(**options: object) -> None:
    """Raise InputError if options that mean something to texts alone come with a picture."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        hint = "; name a patch by --patch ROW,COLUMN" if given[0] == "position" else ""
        raise InputError(f"--{given[0]} is for texts, and a picture is to be explained{hint}")
