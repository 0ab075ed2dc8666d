"""The command, run as a user runs it."""

import sys

import pytest

from mambascope.cli import main


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command with these words; returns exit code, standard output and standard error."""

    def call(*words):
        capsys.readouterr()  # what making the checkpoint printed
        monkeypatch.setattr(sys, "argv", ["mambascope", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err

    return call
