"""The library's messages in the command's words: arguments of Python functions become command options."""

from __future__ import annotations

import re
from functools import cache

from typer.main import get_command

from mambascope.cli.app import app

QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
#: An argument with its value, as messages write it (`layer='all'`), or anything quoted, which may be the user's own.
ARGUMENT = re.compile(rf"(?<![\w.'\"])(?P<name>[a-z][a-z_]*)=(?P<value>{QUOTED}|…|[\w.:]*\w)|{QUOTED}")


def in_options(message: str) -> str:
    """Return a message with arguments written as the command's options where it has them: `--layer all`."""
    return ARGUMENT.sub(_as_option, message)


def _as_option(found: re.Match[str]) -> str:
    option = options().get(found["name"]) if found["name"] else None
    if option is None:
        return found[0]
    value = found["value"].strip("'\"")
    return option if value == "True" else f"{option} {value}"


@cache
def options() -> dict[str, str]:
    """Return the options of all commands by the names of their arguments: `keep_size` is `--keep-size`."""
    commands = getattr(get_command(app), "commands", {}).values()
    named = {one.name: one.opts[0] for command in commands for one in command.params if one.opts[0].startswith("--")}
    return {str(name): option for name, option in named.items()}
