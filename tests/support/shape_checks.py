"""Shape annotations are checked at run time in tests: jaxtyping's hook, with beartype, on the package.

The hook wraps every function, and one inside another anew each time the outer one runs: a third of the time of tests.
Here only functions whose signature names a shape are wrapped. The others keep beartype's check of plain types, but for
those inside another function, whose types mypy reads.
"""

import re
from types import FunctionType

import jaxtyping
from beartype import beartype

#: An array's type with its shape, such as `Float[Tensor, "b L"]`.
SHAPE = re.compile(r"""\w\[[\w.]+, *["']""")


def names_a_shape(annotations) -> bool:
    return any(SHAPE.search(str(annotation)) for annotation in annotations)


def install(package):
    """Check the package's functions from its import on."""
    wrapped = jaxtyping.jaxtyped

    def jaxtyped(*, typechecker):
        def decorated(thing):
            if not isinstance(thing, FunctionType) or names_a_shape(thing.__annotations__.values()):
                return wrapped(typechecker=typechecker)(thing)
            return thing if "<locals>" in thing.__qualname__ else beartype(thing)

        return decorated

    jaxtyping.jaxtyped = jaxtyped  # what the hook calls
    jaxtyping.install_import_hook(package, "beartype.beartype")
