"""What there is of one kind, by name: families, methods, tasks, metrics. The package's own are registered like any."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeVar

from mambascope.errors import InputError
from mambascope.numbering import shown

Entry = TypeVar("Entry")

#: A name has no colon and no comma: a colon begins a variant or form, and commas stand between names.
NAME = re.compile(r"[\w.-]+")


class Registry(dict[str, Entry]):
    """Entries by their names, in the order in which they were registered; `del registry[name]` takes one out again.

    Args:
        what: What an entry is called, for messages.
        kind: The class or protocol of an entry, which has a `name`.
        entries: Those that there are to begin with.
    """

    def __init__(self, what: str, kind: Any, entries: Iterable[Entry] = ()) -> None:
        super().__init__()
        self._what, self._kind = what, kind
        for entry in entries:
            self.register(entry)

    def register(self, entry: Entry) -> Entry:
        """Return the entry, once it can be found by its name; registering the same object again changes nothing.

        Raises:
            InputError: if it is no such entry, its name cannot be typed, or another entry has this name.
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
