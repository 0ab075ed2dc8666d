"""The figure of the rooms: drawn from the contract and the imports, every folder in it, and not out of date."""

import re

import pytest

from benchmarks.house_figure import GROUND, LEGS, PATH, ROOT, contract, defined, draw, drawn, house, in_source

FIGURE = ROOT / "docs" / "house.svg"

#: How far sizes and counts may have moved since the figure was drawn: a tenth, so that it need not be drawn again for
#: every line; and two, as a tenth of the smallest is nothing.
SHARE, FEW = 0.1, 2


@pytest.fixture(scope="module")
def now():
    return house()


def moved(before, after):
    return abs(before - after) > max(SHARE * after, FEW)


def test_every_folder_and_file_has_its_place_in_the_contract():
    order, _ = contract()
    assert sorted(order) == sorted(in_source())


def test_rooms_stand_in_the_order_of_the_contract(now):
    order, upward = contract()
    names = [room["name"] for room in now["rooms"]]
    assert [*names[:-1], *now["ground"]] == order
    assert names[-1] == GROUND
    above = {name: number for number, name in enumerate(names)}
    rises = [(one["from"], one["to"]) for one in now["imports"] if above[one["from"]] > above[one["to"]]]
    assert rises == [tuple(one if one in above else GROUND for one in pair) for pair in upward]


def test_table_of_rooms_is_the_contract(now):
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    table = page.partition("\n## The rooms\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)/` \|", table, re.MULTILINE) == [room["name"] for room in now["rooms"][:-1]]


def test_stations_are_what_the_code_defines(now):
    assert [station.name for station in PATH if not defined(station)] == []
    rooms = dict(now["path"])
    assert {rooms[leg.end] for leg in LEGS if leg.upward} <= {end for _, end in now["upward"]}


def test_figure_shows_the_house_as_it_is(now):
    """`make house` draws it again."""
    before = drawn(FIGURE)
    for part in ("ground", "upward", "path"):
        assert before[part] == now[part], part
    assert [room["name"] for room in before["rooms"]] == [room["name"] for room in now["rooms"]]
    for old, new in zip(before["rooms"], now["rooms"], strict=True):
        assert not any(moved(old[size], new[size]) for size in ("files", "lines")), f"{old} is now {new}"
    old, new = ({(one["from"], one["to"]): one["count"] for one in data["imports"]} for data in (before, now))
    assert old.keys() == new.keys()
    assert {pair: (old[pair], new[pair]) for pair in new if moved(old[pair], new[pair])} == {}


def test_figure_comes_out_the_same_every_time(now, tmp_path):
    draw(now, tmp_path / "one.svg")
    draw(now, tmp_path / "two.svg")
    assert drawn(tmp_path / "one.svg") == now
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
