"""Tables of one and of several results: data frame, CSV."""

import csv
import dataclasses
import io
import sys

import numpy as np
import pytest

from made_results import make
from mambascope.errors import InputError
from mambascope.results.tables import COLUMNS


def test_a_data_frame_has_a_line_for_every_score():
    result = make()
    frame = result.to_dataframe()
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == result.scores.numel()
    one = frame[(frame.layer == 4) & (frame.target == 2) & (frame.source == 1)].iloc[0]
    row = result.row(2, layer=4)
    assert one.score == row[1]
    assert one.share == pytest.approx(float(row[1].abs() / row.abs().sum()), rel=1e-6)
    assert (one.method, one.target_token, one.source_token) == ("latim", "<c>", " b")
    np.testing.assert_allclose(frame.groupby(["layer", "target"]).share.sum(), 1, rtol=1e-12)


def test_the_csv_holds_the_same(tmp_path):
    result = make()
    read = list(csv.DictReader(io.StringIO(result.to_csv())))
    frame = result.to_dataframe()
    assert [line["source_token"] for line in read] == list(frame.source_token)
    np.testing.assert_array_equal([np.float32(line["score"]) for line in read], frame.score)
    np.testing.assert_allclose([float(line["share"]) for line in read], frame.share, rtol=1e-6)
    result.save(tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text() == result.to_csv()


def test_several_results_are_one_table():
    one, two = make(), make(targets=(1, 3), layers=(0,))
    frame = one.to_dataframe(two)
    assert tuple(frame.columns) == ("result", *COLUMNS)
    assert list(frame.index) == list(range(one.scores.numel() + two.scores.numel()))
    for number, result in enumerate((one, two)):
        own = frame[frame.result == number].drop(columns="result").reset_index(drop=True)
        assert own.equals(result.to_dataframe())
    read = list(csv.DictReader(io.StringIO(one.to_csv(two))))
    assert [int(line["result"]) for line in read] == list(frame.result)
    np.testing.assert_array_equal([np.float32(line["score"]) for line in read], frame.score)


def test_a_row_of_zeros_has_no_shares():
    result = make()
    result.scores[:] = 0
    assert not result.to_dataframe().share.any()


def test_half_a_character_is_written_as_its_escape():
    result = dataclasses.replace(make(), tokens=("a", "\udcff", "<c>", "\n"))
    assert list(result.to_dataframe().source_token[:2]) == ["a", "\\udcff"]


@pytest.mark.parametrize(("package", "call"), [("pandas", "to_dataframe"), ("xarray", "to_xarray")])
def test_a_missing_package_is_named(monkeypatch, package, call):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"{package}, which is not installed: pip install"):
        getattr(make(), call)()
