"""`python -m mambascope`: the command."""

from mambascope.cli import main

if __name__ == "__main__":
    main()
