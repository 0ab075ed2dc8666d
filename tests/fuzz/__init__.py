"""The fuzzer: draws cases of every kind, runs them in processes of their own, and says which properties fail.

`driver` runs targets in turn, `running` runs one case and watches what it does to its surroundings, `properties` says
what results must be, `mutation` damages files, and `targets` has one small file per part of the package. See
CONTRIBUTING.md for the commands.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [folder for folder in (str(TESTS / "support"), str(TESTS / "references")) if folder not in sys.path]
