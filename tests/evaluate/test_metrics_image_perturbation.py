"""Image perturbation against a picture worked by hand and loops over pixels."""

import numpy as np
import pytest
import torch
from sklearn.metrics import auc

from mambascope.errors import InputError
from mambascope.evaluate.metrics.image_perturbation import NINE_TENTHS, erased, image_perturbation

PIXELS = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]).expand(3, 2, 2)
SCORES = torch.tensor([[0.1, 0.9], [0.5, -0.3]])


def bright(pictures):
    """The answer of a model that says yes to pictures whose first channel adds up to more than 4."""
    return (pictures[:, 0].sum(dim=(1, 2)) > 4).float()


def test_by_hand():
    found = erased(SCORES, PIXELS, (0.25, 0.5, 0.75), most_first=True)
    assert found[:, 0].tolist() == [[[1, 0], [3, 4]], [[1, 0], [0, 4]], [[0, 0], [0, 4]]]
    assert (found[:, 1:] == found[:, :1]).all(), "a pixel goes with all its channels"
    curves = image_perturbation(SCORES, PIXELS, bright, fractions=(0.25, 0.5, 0.75))
    assert curves.positive.tolist() == [1, 1, 0]  # what is left: 8, 5, 4
    assert curves.negative.tolist() == [1, 1, 0]  # 6, 5, 2
    assert curves.rows("target") == {
        "perturbation_positive_area:target": pytest.approx(0.375),
        "perturbation_negative_area:target": pytest.approx(0.375),
    }
    assert set(curves.rows()) == {"perturbation_positive_area", "perturbation_negative_area"}


@pytest.mark.parametrize("fill", [0.0, -1.0])
@pytest.mark.parametrize("shape", [(3, 3), (5, 7), (10, 10)])
def test_by_loops(shape, fill):
    generator = torch.Generator().manual_seed(shape[1])
    scores = (2 * torch.randn(shape, generator=generator)).round()  # some are tied
    pixels = torch.randn(3, *shape, generator=generator)
    weights = torch.randn(3, *shape, generator=generator)

    def holds(pictures):
        return ((pictures * weights).sum(dim=(1, 2, 3)) > 0).float()

    curves = image_perturbation(scores, pixels, holds, fill=fill)
    for found, sign in ((curves.positive, -1), (curves.negative, 1)):
        places = [(y, x) for y in range(shape[0]) for x in range(shape[1])]
        places.sort(key=lambda place: sign * float(scores[place]))  # stable: of equal ones the first comes first
        expected = []
        for tenth in range(1, 10):
            picture = pixels.clone()
            for y, x in places[: len(places) * tenth // 10]:
                picture[:, y, x] = fill
            expected.append(float(holds(picture[None])[0]))
        assert found.tolist() == expected
    assert curves.rows()["perturbation_positive_area"] == pytest.approx(auc(NINE_TENTHS, curves.positive.numpy()))


def test_the_mean_of_areas_is_the_area_of_the_mean_curve():
    generator = torch.Generator().manual_seed(0)
    curves = [
        image_perturbation(
            torch.randn(4, 4, generator=generator),
            torch.randn(3, 4, 4, generator=generator),
            lambda pictures: (pictures.sum(dim=(1, 2, 3)) > 0).float(),
        )
        for _ in range(20)
    ]
    areas = [one.rows()["perturbation_negative_area"] for one in curves]
    mean_curve = torch.stack([one.negative for one in curves]).mean(dim=0)
    assert np.mean(areas) == pytest.approx(auc(NINE_TENTHS, mean_curve.numpy()))


def test_a_map_that_points_at_the_evidence_beats_one_that_does_not():
    pixels = torch.zeros(3, 10, 10)
    pixels[0, 2:4, 2:4] = 2
    evidence = (pixels[0] > 0).float()
    right, wrong = (image_perturbation(sign * evidence, pixels, bright).rows() for sign in (1, -1))
    assert right["perturbation_positive_area"] == 0
    assert right["perturbation_negative_area"] == pytest.approx(0.8)
    assert wrong["perturbation_positive_area"] == pytest.approx(0.8)
    assert wrong["perturbation_negative_area"] == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scores": torch.zeros(3, 2)}, r"a map of \(3, 2\) pixels does not fit a picture of \(2, 2\)"),
        ({"scores": torch.full((2, 2), torch.nan)}, "pixels cannot be put in order"),
        ({"fractions": (0.5, 0.2)}, "rising within 0 to 1"),
        ({"fractions": (0.5, 1.2)}, "rising within 0 to 1"),
        ({"holds": lambda pictures: torch.zeros(3)}, "one finite number for each of 18 pictures"),
        ({"holds": lambda pictures: torch.full((18,), torch.nan)}, "one finite number for each of 18 pictures"),
    ],
)
def test_what_gives_no_curve_is_refused(changed, message):
    given = {"scores": SCORES, "pixels": PIXELS, "holds": bright, **changed}
    with pytest.raises(InputError, match=message):
        image_perturbation(**given)
