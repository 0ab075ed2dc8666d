"""The mechanisms: copying, recalling, overwriting, induction, a difference with its sign; and those that add up."""

from __future__ import annotations

from mambascope.models.constructed.adding import COUNT, SUM
from mambascope.models.constructed.machine import ALWAYS, FIRST, REWRITE, Address, Carry, Layer, Machine
from mambascope.models.constructed.mechanism import Architecture, Case, Mechanism
from mambascope.registry import Registry

ALL: tuple[Architecture, ...] = ("mamba", "mamba2", "delta", "softmax")
#: Those whose gate follows what is read and depends on the target.
GATED: tuple[Architecture, ...] = ("mamba", "mamba2")
SYMBOLS = ("a", "b", "c", "d")
KEYS = ("a", "b", "c")
VALUES = ("1", "2", "3")
#: How far back copying looks, and each of the two layers of a relay.
LAG, STEP = 3, 2


def _symbols() -> dict[str, tuple[str, ...]]:
    return {symbol: (f"symbol {symbol}",) for symbol in SYMBOLS}


def _symbols_carried() -> tuple[Carry, ...]:
    return tuple(Carry(f"symbol {symbol}", f"answer {symbol}") for symbol in SYMBOLS)


def _symbols_answered() -> dict[str, dict[str, float]]:
    return {symbol: {f"answer {symbol}": 1.0} for symbol in SYMBOLS}


def _copied(text: tuple[str, ...]) -> Case | None:
    target = len(text) - 1
    source = target - LAG
    if source < 0:
        return None
    return Case(text, text[source], {source: 1}, frozenset({target}), ({f"symbol {text[source]}": 1},))


COPY = Mechanism(
    "copy",
    f"repeats the token {LAG} places back",
    Machine(_symbols(), _symbols_answered(), (Layer(_symbols_carried(), lag=LAG),)),
    SYMBOLS,
    (),
    _copied,
    ALL,
)


def _relayed(text: tuple[str, ...]) -> Case | None:
    target = len(text) - 1
    source = target - 2 * STEP
    if source < 0:
        return None
    held = ({f"symbol {text[target - STEP]}": 1}, {f"relay {text[source]}": 1})
    return Case(text, text[source], {source: 1}, frozenset({target}), held)


RELAY = Mechanism(
    "relay",
    f"repeats the token {2 * STEP} places back, in two layers",
    Machine(
        _symbols(),
        _symbols_answered(),
        (
            Layer(tuple(Carry(f"symbol {symbol}", f"relay {symbol}") for symbol in SYMBOLS), lag=STEP),
            Layer(tuple(Carry(f"relay {symbol}", f"answer {symbol}") for symbol in SYMBOLS), lag=STEP),
        ),
    ),
    SYMBOLS,
    (),
    _relayed,
    ALL,
)


def _first(text: tuple[str, ...]) -> Case | None:
    if len(text) < 2:
        return None
    return Case(text, text[0], {0: 1}, frozenset({len(text) - 1}), ({f"symbol {text[0]}": 1},))


FIRST_TOKEN = Mechanism(
    "first",
    "repeats the first token",
    Machine(_symbols(), _symbols_answered(), (Layer(_symbols_carried(), (Address(FIRST, ALWAYS),)),)),
    SYMBOLS,
    (),
    _first,
    ALL,
)

_ASSIGNMENTS = {f"{key}={value}": (f"key {key}", f"value {value}") for key in KEYS for value in VALUES}
_FILLERS = (".", ",")


def _memory(forgets: str | None, *, gated: bool = False) -> Machine:
    tokens = {
        **_ASSIGNMENTS,
        **{f"{key}?": (f"asks {key}",) for key in KEYS},
        **{filler: (f"filler {filler}",) for filler in _FILLERS},
        **dict.fromkeys(VALUES, ()),
    }
    carries = tuple(Carry(f"value {value}", f"answer {value}") for value in VALUES)
    addresses = tuple(Address(f"key {key}", f"asks {key}") for key in KEYS)
    answers = {value: {f"answer {value}": 1.0} for value in VALUES}
    return Machine(tokens, answers, (Layer(carries, addresses, forgets=forgets, gated=gated),))


def _recalled(text: tuple[str, ...]) -> Case | None:
    key, target = text[-1][0], len(text) - 1
    found = [k for k, token in enumerate(text[:-1]) if token in _ASSIGNMENTS and token[0] == key]
    if not found:
        return None
    value = text[found[-1]][2]
    return Case(text, value, {found[-1]: 1}, frozenset({target}), ({f"value {value}": 1},))


def _assignments(case: Case) -> int:
    """Return how often the key that is asked for was assigned."""
    key = case.tokens[-1][0]
    return sum(token in _ASSIGNMENTS and token[0] == key for token in case.tokens)


def _recalled_once(text: tuple[str, ...]) -> Case | None:
    case = _recalled(text)
    return case if case is not None and _assignments(case) == 1 else None


RECALL = Mechanism(
    "recall",
    "gives the value of the key that is asked for, among other keys and fillers",
    _memory(None),
    (*_ASSIGNMENTS, *_FILLERS),
    tuple(f"{key}?" for key in KEYS),
    _recalled_once,
    ALL,
)
OVERWRITE = Mechanism(
    "overwrite",
    "gives the last value of a key that was assigned several times",
    _memory(REWRITE),
    (*_ASSIGNMENTS, *_FILLERS),
    tuple(f"{key}?" for key in KEYS),
    _recalled,
    ALL,
    tells=lambda case: _assignments(case) > 1,
)
GATE = Mechanism(
    "gate",
    "the same, but every key's value is read, and the gate lets one through",
    _memory(REWRITE, gated=True),
    (*_ASSIGNMENTS, *_FILLERS),
    tuple(f"{key}?" for key in KEYS),
    _recalled,
    GATED,
    tells=lambda case: _assignments(case) < len(case.idle),
)

_PLUS = {f"+{value}": ("plus", f"plus {value}") for value in VALUES}
_MINUS = {f"-{value}": ("minus", f"minus {value}") for value in VALUES}


def _compared(text: tuple[str, ...]) -> Case | None:
    plus, minus = ([k for k, token in enumerate(text) if token in signed] for signed in (_PLUS, _MINUS))
    if len(plus) != 1 or len(minus) != 1 or text[plus[0]][1] == text[minus[0]][1]:
        return None
    a, b = int(text[plus[0]][1]), int(text[minus[0]][1])
    sign = 1 if a > b else -1
    held = {f"plus {a}": 1, f"minus {b}": 1}
    signs = {plus[0]: sign, minus[0]: -sign}
    return Case(text, "yes" if a > b else "no", signs, frozenset({len(text) - 1}), (held,))


DIFFERENCE = Mechanism(
    "difference",
    "says yes if the number with a plus is larger than the one with a minus, else no",
    Machine(
        {
            **_PLUS,
            **_MINUS,
            **{filler: (f"filler {filler}",) for filler in _FILLERS},
            "?": ("asks",),
            "yes": (),
            "no": (),
        },
        {"yes": {"difference": 1.0}, "no": {"difference": -1.0}},
        (
            Layer(
                tuple(
                    Carry(f"{side} {value}", "difference", sign * float(value))
                    for side, sign in (("plus", 1), ("minus", -1))
                    for value in VALUES
                ),
                (Address("plus", ALWAYS), Address("minus", ALWAYS)),
                at_once=2,
            ),
        ),
    ),
    (*_PLUS, *_MINUS, *_FILLERS),
    ("?",),
    _compared,
    ALL,
)


def _induced(text: tuple[str, ...]) -> Case | None:
    target = len(text) - 1
    before = [k for k in range(target) if text[k] == text[-1]]
    if len(before) != 1 or before[0] == target - 1:
        return None
    source = before[0] + 1
    held = ({f"symbol {text[-2]}": 1}, {f"symbol {text[source]}": 1})
    return Case(text, text[source], {source: 1}, frozenset({before[0], target}), held)


INDUCTION = Mechanism(
    "induction",
    "gives what followed the last token where it stood before, in two layers",
    Machine(
        {"^": ("start",), **_symbols()},
        _symbols_answered(),
        (
            Layer(tuple(Carry(f"symbol {symbol}", f"previous {symbol}") for symbol in SYMBOLS), lag=1),
            Layer(
                _symbols_carried(),
                tuple(Address(f"previous {symbol}", f"symbol {symbol}") for symbol in SYMBOLS),
            ),
        ),
    ),
    SYMBOLS,
    (),
    _induced,
    ALL,
    opens="^",
)

MECHANISMS: Registry[Mechanism] = Registry(
    "mechanism", Mechanism, (COPY, RELAY, FIRST_TOKEN, RECALL, OVERWRITE, GATE, DIFFERENCE, INDUCTION, COUNT, SUM)
)
