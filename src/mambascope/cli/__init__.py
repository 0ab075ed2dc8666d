"""The command `mambascope`: every verb of the library in a terminal, and every refusal in one sentence."""

from __future__ import annotations

import io
import signal
import sys

from mambascope.cli.app import app
from mambascope.cli.wording import in_options
from mambascope.errors import MambascopeError

__all__ = ["app", "main", "take_signals"]

#: What torch's messages contain when an allocation fails, on a CPU and on a GPU.
OUT_OF_MEMORY = ("allocate memory", "out of memory")


def take_signals() -> None:
    """Have SIGTERM end the command as an exception does: it keeps results, tidies up, and ends its workers."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def main() -> None:
    """Run the command; what mambascope refuses is printed as one sentence, with exit code 2."""
    take_signals()
    for stream in (sys.stdout, sys.stderr):  # a terminal of another encoding shows what it cannot write as escapes
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except MambascopeError as error:
        print(f"mambascope: {in_options(' '.join(str(error).split()))}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        print("mambascope: there is not enough memory for this text and model; shorten the text", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("mambascope: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
