"""Draw the house: every room of the package in the order of the import contract, what imports what, and the one path.

The order of the rooms is read from the contract in pyproject.toml, the arrows from the code's own imports (by grimp,
which import-linter checks the contract with), files and lines from the files. The figure holds the same data as JSON.

    python -m benchmarks.house_figure --out docs/house.svg
"""

from __future__ import annotations

import argparse
import ast
import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from mambascope.files import whole_file

ROOT = Path(__file__).parents[1]
PACKAGE = "mambascope"
SOURCES = ROOT / "src" / PACKAGE

#: The name for all files that are not rooms: they lie at the ground, beneath all rooms.
GROUND = "ground"

#: Files that import everything, or that nothing imports: they belong to no room.
DOORS = {"__init__", "__main__"}


class Station(NamedTuple):
    """One object of the path: its name, the module that defines it, what it is called there, and where it is drawn.

    Attributes:
        along: Inches from the beginning of the path.
    """

    name: str
    module: str
    defines: str
    along: float


class Leg(NamedTuple):
    """How one station leads to another.

    Attributes:
        start: The station that is left.
        end: The station that is reached.
        verb: What is called.
        leaves: Where its line leaves the first, in inches to the right of the middle.
        enters: Where it enters the second.
        beside: Where the verb is written, in inches to the right of the middle of the line; below 0 it ends there.
        upward: Whether it goes up, along an import that may.
    """

    start: str
    end: str
    verb: str = ""
    leaves: float = 0.0
    enters: float = 0.0
    beside: float = 0.08
    upward: bool = False


#: The one path, from what a user has to what a user sees.
PATH = (
    Station("model", "loading.load", "load", 0.3),
    Station("inputs", "inputs.tokens", "encode", 0.86),
    Station("Trace", "trace.trace", "Trace", 0.58),
    Station("Block", "trace.block", "Block", 1.72),
    Station("AffineMap", "operators.affine_map", "AffineMap", 2.12),
    Station("Method", "methods.method", "Method", 2.64),
    Station("explain", "explanation.explaining", "explain", 2.92),
    Station("Attribution", "attribution", "Attribution", 3.52),
    Station("show", "show.terminal", "print_attribution", 3.76),
)

LEGS = (
    Leg("model", "Trace", leaves=0.14, enters=-0.14),
    Leg("inputs", "Trace", "capture", leaves=-0.14, enters=0.14, beside=0.1),
    Leg("Trace", "Block", ".layers"),
    Leg("Block", "AffineMap", ".operator()", enters=-0.12, beside=-0.1),
    Leg("AffineMap", "Method", "rows, tiles", leaves=0.12, beside=0.1),
    Leg("Method", "explain", leaves=0.16, enters=-0.12),
    Leg("explain", "Attribution", leaves=0.2, enters=-0.14),
    Leg("Attribution", "show", ".show(), an\nimport that\ngoes up", leaves=0.24, upward=True),
)


def contract() -> tuple[list[str], list[tuple[str, str]]]:
    """Return the rooms and files at the ground from top to bottom, and the imports that may go up to rooms."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    (layers,) = [one for one in settings["contracts"] if one["type"] == "layers"]
    order = [_parts(module)[0] for module in layers["layers"]]
    ends = [[_parts(end)[0] for end in line.split(" -> ")] for line in layers.get("ignore_imports", ())]
    return order, [(start, end) for start, end in ends if (SOURCES / end).is_dir()]


def in_source() -> set[str]:
    """Return the folders and files directly in the package, except those that belong to no room."""
    folders = {one.parent.name for one in SOURCES.glob("*/__init__.py")}
    return folders | ({one.stem for one in SOURCES.glob("*.py")} - DOORS)


def house() -> dict[str, Any]:
    """Return the rooms with their sizes, the imports between them, and the path: all that is drawn."""
    import grimp

    order, upward = contract()
    folders = [name for name in order if (SOURCES / name).is_dir()]
    ground = [name for name in order if name not in folders]
    sizes: dict[str, list[int]] = {name: [] for name in (*folders, GROUND)}
    for file in sorted(SOURCES.rglob("*.py")):
        name = file.relative_to(SOURCES).with_suffix("").parts[0]
        if name not in DOORS:
            sizes[name if name in folders else GROUND].append(file.read_text("utf-8").count("\n"))
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    imports: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            start, end = (_room(one, folders) for one in (module, imported))
            if start and end and start != end:
                imports[start, end] += 1
    rank = {name: number for number, name in enumerate((*folders, GROUND))}
    return {
        "rooms": [{"name": name, "files": len(sizes[name]), "lines": sum(sizes[name])} for name in rank],
        "ground": ground,
        "imports": [
            {"from": start, "to": end, "count": imports[start, end]}
            for start, end in sorted(imports, key=lambda pair: (rank[pair[0]], rank[pair[1]]))
        ],
        "upward": [list(pair) for pair in upward],
        "path": [[station.name, _parts(f"{PACKAGE}.{station.module}")[0]] for station in PATH],
    }


def defined(station: Station) -> bool:
    """Return whether the module of a station defines what it is named after."""
    tree = ast.parse((SOURCES / f"{station.module.replace('.', '/')}.py").read_text("utf-8"))
    return any(getattr(node, "name", None) == station.defines for node in tree.body)


def drawn(figure: Path) -> dict[str, Any]:
    """Return the data that a figure was drawn from."""
    found = ElementTree.parse(figure).find(".//{http://purl.org/dc/elements/1.1/}description")
    assert found is not None
    assert found.text is not None
    data: dict[str, Any] = json.loads(found.text)
    return data


def _parts(module: str) -> list[str]:
    return module.split(".")[1:]


def _room(module: str, folders: list[str]) -> str | None:
    """Return the room of a module, `GROUND` for a file beneath them, None for the package's own doors."""
    name = (_parts(module) or ["__init__"])[0]
    return None if name in DOORS else name if name in folders else GROUND


INK, PALE, BAND, EDGE = "#23262b", "#62676f", "#f6f4ef", "#d9d4c7"
LANE, FEW, MANY, WALK = "#a9b8cb", "#e3ecf6", "#2f69a8", "#b8420f"

#: Inches: heights of a room, of the ground and of the gap between; where names, lanes and the path begin; all of it.
HEIGHT, LOW, GAP, TOP = 0.44, 0.98, 0.15, 0.55
NAMES, LANES, STEP, WALKS, WIDTH = 0.16, 3.05, 0.365, 6.88, 11.6


def draw(data: dict[str, Any], out: Path) -> None:
    """Write the figure."""
    import matplotlib
    from matplotlib.figure import Figure

    names = [room["name"] for room in data["rooms"]]
    height = TOP + (len(names) - 1) * (HEIGHT + GAP) + LOW + 0.12
    settings = {"svg.hashsalt": PACKAGE, "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 9}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(WIDTH, height), facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
        axes.set_axis_off()
        tops = {name: TOP + number * (HEIGHT + GAP) for number, name in enumerate(names)}
        _rooms(axes, data, tops)
        _imports(axes, data, tops)
        _path(axes, data, tops)
        about = {"Title": "The rooms of mambascope", "Description": json.dumps(data), "Date": None, "Creator": None}
        with whole_file(out) as partial:
            figure.savefig(partial, metadata=about)


def _middle(tops: dict[str, float], name: str) -> float:
    return tops[name] + (LOW if name == GROUND else HEIGHT) / 2


def _rooms(axes: Any, data: dict[str, Any], tops: dict[str, float]) -> None:
    """Draw the boxes, each with its name, files and lines."""
    from matplotlib.patches import FancyBboxPatch

    heads = (
        (NAMES + 0.06, "rooms, outermost first"),
        (LANES - 0.08, "■ imports from ▼: how many pairs of files"),
        (WALKS, "the path of every explanation"),
    )
    for x, text in heads:
        axes.text(x, TOP - 0.24, text, color=PALE, va="center", size=9.2)
    for room in data["rooms"]:
        name, top = room["name"], tops[room["name"]]
        tall = LOW if name == GROUND else HEIGHT
        style = "round,pad=0,rounding_size=0.06"
        box = FancyBboxPatch((NAMES - 0.06, top), WIDTH - 2 * (NAMES - 0.06), tall, style, fc=BAND, ec=EDGE, lw=0.8)
        axes.add_patch(box)
        title = name if name == GROUND else f"{name}/"
        at = top + (0.16 if name == GROUND else HEIGHT / 2)
        axes.text(NAMES + 0.06, at, title, color=INK, va="center", weight="bold", size=10.5)
        for x, size in ((LANES - 1.03, f"{room['files']} files"), (LANES - 0.26, f"{room['lines']:,} lines")):
            axes.text(x, at, size, color=PALE, va="center", ha="right", size=8.8)
    for number, line in enumerate(_wrapped(data["ground"], 40)):
        axes.text(NAMES + 0.06, tops[GROUND] + 0.35 + 0.15 * number, line, color=PALE, va="center", size=8.2)


def _wrapped(names: list[str], width: int) -> list[str]:
    lines = [""]
    for name in names:
        if len(lines[-1]) + len(name) > width:
            lines.append("")
        lines[-1] += f"{', ' if lines[-1] else ''}{name}"
    return lines


def _imports(axes: Any, data: dict[str, Any], tops: dict[str, float]) -> None:
    """Draw a lane down from every room, with an arrow and a count at each room that it imports from."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Circle, Polygon, Rectangle

    shades = LinearSegmentedColormap.from_list("counts", [FEW, MANY])
    order = list(tops)
    down = [one for one in data["imports"] if order.index(one["from"]) < order.index(one["to"])]
    most = max(one["count"] for one in down)
    for number, name in enumerate(order[:-1]):
        x = LANES + STEP * number
        ends = [one for one in down if one["from"] == name]
        last = max(_middle(tops, one["to"]) for one in ends)
        axes.plot([x, x], [_middle(tops, name), last], color=LANE, lw=1.2, solid_capstyle="butt")
        side = 0.15
        axes.add_patch(
            Rectangle((x - side / 2, _middle(tops, name) - side / 2), side, side, fc=INK, ec="none", zorder=3)
        )
        for one in ends:
            y, radius = _middle(tops, one["to"]), 0.135
            shade = (one["count"] / most) ** 0.5
            tip = y - radius - 0.005
            axes.add_patch(
                Polygon([(x, tip), (x - 0.055, tip - 0.09), (x + 0.055, tip - 0.09)], fc=MANY, ec="none", zorder=3)
            )
            axes.add_patch(Circle((x, y), radius, fc=shades(shade), ec=MANY, lw=0.6, zorder=3))
            ink = "white" if shade > 0.6 else INK
            axes.text(x, y, str(one["count"]), color=ink, size=8, ha="center", va="center_baseline", zorder=4)


def _path(axes: Any, data: dict[str, Any], tops: dict[str, float]) -> None:
    """Draw the stations, each in its room, and the way from one to the next."""
    places = {}
    for station, (name, room) in zip(PATH, data["path"], strict=True):
        places[name] = WALKS + station.along, _middle(tops, room if room in tops else GROUND)
        axes.text(
            *places[name], name, color=WALK, ha="center", va="center", weight="bold", zorder=6,
            bbox={"boxstyle": "round,pad=0.28,rounding_size=0.35", "fc": "white", "ec": WALK, "lw": 1.1},
        )  # fmt: skip
    for leg in LEGS:
        _leg(axes, leg, places[leg.start], places[leg.end])


def _leg(axes: Any, leg: Leg, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow between stations: along a row, or from row to row in an upright curve."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    (x, y), (to_x, to_y) = start, end
    if y == to_y:
        points, codes = [(x + 0.29, y), (to_x - 0.29, y)], [Curve.MOVETO, Curve.LINETO]
        at, rise, place = (x + to_x) / 2 - 0.03, 0.05, {"ha": "center", "va": "bottom"}
    else:
        way = 0.145 if to_y > y else -0.145
        x, y, to_x, to_y = x + leg.leaves, y + way, to_x + leg.enters, to_y - way
        bend = (to_y - y) / 2
        points = [(x, y), (x, y + bend), (to_x, to_y - bend), (to_x, to_y)]
        codes = [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
        at, rise, place = (
            (x + to_x) / 2 + leg.beside,
            0.0,
            {"ha": "right" if leg.beside < 0 else "left", "va": "center"},
        )
    line = {"linestyle": (0, (4, 2.5)) if leg.upward else "solid", "color": WALK, "lw": 1.4, "zorder": 5}
    axes.add_patch(FancyArrowPatch(path=Curve(points, codes), arrowstyle="-|>", mutation_scale=10, **line))
    axes.text(at, (y + to_y) / 2 - rise, leg.verb, color=WALK, size=8.8, zorder=7, **place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    draw(house(), parser.parse_args().out)


if __name__ == "__main__":
    main()
