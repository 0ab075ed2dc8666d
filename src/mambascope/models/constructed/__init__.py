"""Models known by construction: stock classes with weights set by hand, of which it is known what an answer comes from.

Whether a score tells the truth can be settled only where the truth is known without training. A mechanism
(`mechanisms.py`) is a rule that says for each input what the answer is, which tokens it is made of and with which sign.
It is written once, as addresses and what is carried between tokens (`machine.py`), and set into the weights of four
architectures: Mamba-1, Mamba-2, the gated delta net and softmax attention (`in_*.py`). What each model must return is
computed by plain arithmetic (`expected.py`) and asserted over all inputs of small sizes.
"""

from mambascope.models.constructed.mechanism import Case, Mechanism
from mambascope.models.constructed.mechanisms import MECHANISMS
from mambascope.models.constructed.named import PREFIX, build, constructed_models, mechanism_of

__all__ = ["MECHANISMS", "PREFIX", "Case", "Mechanism", "build", "constructed_models", "mechanism_of"]
