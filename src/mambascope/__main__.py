"""`python -m mambascope`: the command."""

from mambascope.cli import main

main()
