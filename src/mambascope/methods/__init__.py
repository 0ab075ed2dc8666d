"""The published methods: how much each target drew from each source. One file per family of methods.

The functions are named in `__init__.pyi` and imported on first use. `METHODS` describes every method, by name;
`register` adds one from outside the package.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
