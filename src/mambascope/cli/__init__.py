"""The command `mambascope`: every verb of the library from a terminal, and every refusal as one sentence."""

from __future__ import annotations

import sys

from mambascope.cli.app import app
from mambascope.errors import MambascopeError

__all__ = ["app", "main"]


def main() -> None:
    """Run the command; anything that mambascope refuses is printed as one sentence, with exit code 2."""
    try:
        app()
    except MambascopeError as error:
        print(f"mambascope: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("mambascope: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
