"""mambascope: see what a Mamba model looked at.

model, tokenizer = mambascope.load("tiny-mamba")
result = mambascope.explain(model, tokenizer, "When Mary and John went to the store, John gave a drink to")
result.show()

The public names are in `__init__.pyi`. Each is imported on first use: torch and transformers take seconds to import.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
