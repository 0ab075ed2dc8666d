"""The published methods: how much each target drew from each source. A family of methods a file.

The functions are named in `__init__.pyi` and imported on first use; `METHODS` has everything about each by name,
and `register` takes a method from outside the package.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
