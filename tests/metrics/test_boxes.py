"""Boxes, against values worked out by hand."""

import pytest

from deed.metrics.boxes import box_accuracy, box_accuracy_each, iou, xywh_to_xyxy, xyxy_to_xywh

BOX = (10, 20, 30, 60)  # 20 x 40


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (BOX, 800 / (800 + 1e-6)),
        ((20, 20, 40, 60), 400 / (1200 + 1e-6)),  # moved by half its width
        ((10, 20, 30, 40), 400 / (800 + 1e-6)),  # its upper half
        ((0, 0, 100, 100), 800 / (10000 + 1e-6)),  # all around it
        ((15.5, 30.5, 25.5, 40.5), 100 / (800 + 1e-6)),  # inside
        ((30, 20, 50, 60), 0),  # side by side
        ((10, 60, 30, 90), 0),  # below
        ((40, 70, 50, 80), 0),  # apart both ways: the product of two negative extents is no overlap
        ((30, 60, 10, 20), 0),  # corners in the wrong order
        ((10, 20, 10, 20), 0),  # a point
        ((float("nan"), 20, 30, 60), 0),
        ((10, 20, 30, float("nan")), 0),
        ((10, 20, float("inf"), 60), 0),
    ],
)
def test_iou(other, expected):
    assert iou(BOX, other) == pytest.approx(expected, abs=1e-12)
    assert iou(other, BOX) == pytest.approx(expected, abs=1e-12)


def test_the_epsilon_is_in_the_denominator():
    # an area of 1e-6 against itself: 1e-6 / (1e-6 + 1e-6)
    assert iou((0, 0, 1e-3, 1e-3), (0, 0, 1e-3, 1e-3)) == pytest.approx(0.5)
    assert iou((5, 5, 5, 5), (5, 5, 5, 5)) == 0
    # so an overlap of just half is below the threshold, as in OFA's evaluation
    assert box_accuracy([(10, 20, 30, 40)], [BOX]) == 0
    assert box_accuracy([(10, 20, 30, 40.001)], [BOX]) == 1


def test_accuracy():
    predictions = [BOX, (12, 22, 32, 62), (20, 20, 40, 60), None, (30, 60, 10, 20)]
    # 800/800, 18*38/(1600-684) = 0.747, 400/1200, none given, corners swapped
    assert box_accuracy_each(predictions, [BOX] * 5) == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert box_accuracy(predictions, [BOX] * 5) == pytest.approx(0.4)
    assert box_accuracy_each(predictions, [BOX] * 5, threshold=0.75) == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert box_accuracy_each(predictions, [BOX] * 5, threshold=0.3) == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert box_accuracy_each([(50, 60, 70, 80)], [BOX], threshold=0.0) == [0.0]  # some overlap there must be


def test_what_is_refused():
    with pytest.raises(ValueError, match="as many references as predictions, got 1 and 0"):
        box_accuracy([], [BOX])
    with pytest.raises(ValueError, match="as many references as predictions, got 1 and 2"):
        box_accuracy([BOX, None], [BOX])
    for bad in ((1, 2, 3), "box!", (1, 2, 3, "x"), 7):
        with pytest.raises(ValueError, match="a box is four numbers"):
            iou(BOX, bad)


def test_corners_and_sizes():
    assert xywh_to_xyxy((10.5, 20, 30.25, 40)) == (10.5, 20, 40.75, 60)
    assert xyxy_to_xywh((10.5, 20, 40.75, 60)) == (10.5, 20, 30.25, 40)
    assert xywh_to_xyxy([5, 5, 0, 0]) == (5, 5, 5, 5)
    with pytest.raises(ValueError, match="sizes not negative"):
        xywh_to_xyxy((0, 0, -1, 5))
    with pytest.raises(ValueError, match="x0 <= x1 and y0 <= y1"):
        xyxy_to_xywh((5, 5, 6, 4))
