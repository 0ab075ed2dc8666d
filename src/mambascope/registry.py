"""Registries of families, methods, tasks and metrics by name; the package registers its own entries in the same way."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeVar

from mambascope.errors import InputError
from mambascope.numbering import shown

Entry = TypeVar("Entry")

#: A name has no colon and no comma: a colon precedes a variant, and commas separate names.
NAME = re.compile(r"[\w.-]+")


class Registry(dict[str, Entry]):
    """Entries by their names, in the order in which they were registered; `del registry[name]` takes one out again.

    Args:
        what: What an entry is called, for messages.
        kind: The class or protocol of an entry, which has a `name`.
        entries: The first entries.
    """

    def __init__(self, what: str, kind: Any, entries: Iterable[Entry] = ()) -> None:
        super().__init__()
        self._what, self._kind = what, kind
        for entry in entries:
            self.register(entry)

    def register(self, entry: Entry) -> Entry:
        """Add an entry and return it; registering the same object again changes nothing.

        Raises:
            InputError: if the entry is of another class, its name holds other signs, or another entry has that name.
        """
        if not isinstance(entry, self._kind):
            raise InputError(f"only a {self._what} can be registered here, found {shown(entry)}")
        name = entry.name
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise InputError(
                f"a {self._what} is named by letters, digits, dots, dashes and underscores, found {shown(name)}"
            )
        if self.setdefault(name, entry) is not entry:
            raise InputError(f"there is a {self._what} named {name} already; give this one another name")
        return entry
