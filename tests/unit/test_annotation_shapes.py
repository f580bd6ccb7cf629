"""Polygons and run lengths: by hand, as properties, and beside pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageDraw
from pycocotools import mask as oracle

from bitfront.annotations.polygons import components, fill, joined, simplify, trace
from bitfront.annotations.run_lengths import (
    compress_counts,
    counts_of,
    decode_brush,
    encode_brush,
    expand_counts,
    mask_of,
)
from bitfront.annotations.shapes import Annotation, Picture, Region, boxes_of, paint
from bitfront.contracts import IGNORE

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

SIZE = (5, 6)
few = settings(max_examples=25, deadline=None)
masks = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 0, 1, 2, 255])
)


def filled(ring: list[tuple[float, float]], size: tuple[int, int] = SIZE) -> str:
    """The picture of a filled ring, one line a row."""
    full = np.zeros(size, bool)
    top, left, inside = fill(np.array(ring, float), size)
    full[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return "\n".join("".join(".#"[v] for v in row) for row in full.astype(int))


def painted(polygons: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    top, left, inside = Region(tuple(polygons)).window(size)
    full = np.zeros(size, bool)
    full[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return full


# --- filling ---------------------------------------------------------------------------------------------------------
def test_a_rectangle_covers_the_pixels_whose_centres_it_holds() -> None:
    assert filled([(1, 1), (4, 1), (4, 3), (1, 3)]) == "......\n.###..\n.###..\n......\n......"
    assert filled([(1.4, 1.4), (3.6, 1.4), (3.6, 2.6), (1.4, 2.6)]) == "......\n.###..\n.###..\n......\n......"
    assert filled([(1.6, 1.6), (3.4, 1.6), (3.4, 2.4), (1.6, 2.4)]) == "......\n......\n......\n......\n......"


def test_a_centre_on_an_edge_belongs_right_and_below() -> None:
    assert filled([(1.5, 1.5), (3.5, 1.5), (3.5, 3.5), (1.5, 3.5)]) == "......\n.##...\n.##...\n......\n......"


def test_a_triangle_by_hand() -> None:
    assert filled([(0, 0), (6, 0), (0, 5)]) == "#####.\n####..\n###...\n##....\n#....."


def test_a_ring_that_crosses_itself_is_filled_by_even_and_odd() -> None:
    double = [(0, 0), (6, 0), (6, 5), (0, 5), (0, 0), (4, 0), (4, 3), (0, 3)]
    assert filled(double) == "....##\n....##\n....##\n######\n######"


def test_what_lies_outside_is_cut_off() -> None:
    assert filled([(-100, -100), (3, -100), (3, 100), (-100, 100)]) == "\n".join(["###..."] * 5)
    assert "#" not in filled([(10, 10), (20, 10), (20, 20)])
    assert "#" not in filled([(-10, 1), (-1, 1), (-1, 4)])
    assert filled([(-1e6, -1e6), (1e6, -1e6), (1e6, 1e6), (-1e6, 1e6)]) == "\n".join(["######"] * 5)


@pytest.mark.parametrize("ring", [[], [(1, 1)], [(1, 1), (4, 4)], [(2, 2), (2, 2), (2, 2)]])
def test_what_has_no_area_covers_nothing(ring: list[tuple[float, float]]) -> None:
    assert "#" not in filled(ring) if ring else not fill(np.zeros((0, 2)), SIZE)[2].size


@few
@given(st.lists(st.tuples(st.floats(0, 12), st.floats(0, 10)), min_size=1, max_size=4), st.integers(0, 99))
def test_polygons_that_share_edges_share_no_pixel_and_leave_none_out(points: list, seed: int) -> None:
    """A rectangle cut into triangles around inner points is covered exactly once."""
    x, y = points[0]
    corners = [(0, 0), (12, 0), (12, 10), (0, 10)]
    count = np.zeros((10, 12), int)
    for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
        ring = np.roll(np.array([a, b, (x, y)], float), seed, axis=0)
        count += painted([ring if seed % 2 else ring[::-1]], (10, 12))
    assert (count == 1).all()


def test_pillow_fills_the_outline_too() -> None:
    """Why the rule is stated: Pillow's polygon of a traced square is one pixel larger."""
    image = Image.new("L", (6, 5))
    ImageDraw.Draw(image).polygon([(1, 1), (4, 1), (4, 3), (1, 3)], fill=1)
    assert np.asarray(image).sum() == 12
    assert filled([(1, 1), (4, 1), (4, 3), (1, 3)]).count("#") == 6


# --- tracing ---------------------------------------------------------------------------------------------------------
def shape(*rows: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows]).astype(np.uint8)


def test_a_hole_is_traced_the_other_way() -> None:
    outer, holes = trace(next(c for c in components(shape("####", "#..#", "####")) if c.value))
    assert outer.tolist() == [[4, 0], [4, 3], [0, 3], [0, 0]]
    assert [sorted(map(tuple, h.tolist())) for h in holes] == [[(1, 1), (1, 2), (3, 1), (3, 2)]]
    assert signed_area(outer) == 12
    assert signed_area(holes[0]) == -2


def signed_area(ring: np.ndarray) -> float:
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def test_pixels_that_touch_at_a_corner_are_two_components() -> None:
    found = [c for c in components(shape("#.", ".#")) if c.value]
    assert [(c.top, c.left, c.window.tolist()) for c in found] == [(0, 0, [[True]]), (1, 1, [[True]])]


def test_a_hole_that_touches_the_outside_at_a_corner() -> None:
    mask = shape("###", "#.#", "##.")
    outer, holes = trace(next(c for c in components(mask) if c.value))
    assert not holes
    assert len(outer) == 10
    assert (painted([joined(outer, holes)], mask.shape) == (mask > 0)).all()


@few
@given(masks)
def test_traced_masks_are_filled_again_to_the_bit(mask: np.ndarray) -> None:
    again = np.full(mask.shape, 77, np.uint8)
    for component in components(mask):
        outer, holes = trace(component)
        assert signed_area(outer) + sum(map(signed_area, holes)) == component.window.sum()
        ring = joined(outer, holes)
        inside = painted([ring], mask.shape)
        again[inside] = component.value
        coco = oracle.decode(oracle.merge(oracle.frPyObjects([ring.ravel().tolist()], *mask.shape)))
        assert (coco == inside).all()  # other tools read the same pixels
    assert (again == mask).all()


@few
@given(masks)
def test_components_are_those_of_scipy(mask: np.ndarray) -> None:
    from scipy import ndimage

    found = list(components(mask))
    for value in np.unique(mask):
        assert sum(c.value == value for c in found) == ndimage.label(mask == value)[1]
    assert sum(int(c.window.sum()) for c in found) == mask.size


def test_simplified_rings_stay_near(rng: np.random.Generator) -> None:
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    ring = np.stack([50 + 40 * np.cos(angle), 50 + 30 * np.sin(angle)], axis=1) + rng.normal(0, 0.1, (200, 2))
    fewer = simplify(ring, 1.0)
    assert 6 <= len(fewer) < 40
    a, b = painted([ring], (100, 100)), painted([fewer], (100, 100))
    assert (a & b).sum() / (a | b).sum() > 0.97
    assert simplify(ring, 0) is ring
    square = np.array([(0, 0), (2, 0), (4, 0), (4, 4), (2, 4), (0, 4)], float)
    assert simplify(square, 0.1).tolist() == [[0, 0], [4, 0], [4, 4], [0, 4]]


# --- run lengths -----------------------------------------------------------------------------------------------------
def test_counts_by_hand() -> None:
    assert counts_of(shape(".#", "##").astype(bool)).tolist() == [1, 3]
    assert counts_of(shape("##", ".#").astype(bool)).tolist() == [0, 1, 1, 2]
    assert counts_of(np.zeros((2, 3), bool)).tolist() == [6]
    assert counts_of(np.ones((2, 3), bool)).tolist() == [0, 6]
    assert mask_of([1, 3], (2, 2)).tolist() == [[False, True], [True, True]]


@few
@given(masks)
def test_compressed_counts_are_those_of_pycocotools(mask: np.ndarray) -> None:
    inside = mask == 1
    counts = counts_of(inside)
    text = compress_counts(counts)
    assert text == oracle.encode(np.asfortranarray(inside.astype(np.uint8)))["counts"].decode()
    assert expand_counts(text).tolist() == counts.tolist()
    assert (mask_of(counts, inside.shape) == inside).all()


@few
@given(st.lists(st.integers(0, 2**33), max_size=12))
def test_any_counts_are_compressed_and_expanded(counts: list[int]) -> None:
    assert expand_counts(compress_counts(counts)).tolist() == counts


@pytest.mark.parametrize("text", ["~", "é", "a", "0" * 5 + "p", "o" * 20, "\x00"])
def test_damaged_counts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="run length"):
        expand_counts(text)


@pytest.mark.parametrize("counts", [[-1, 5], [5], [2, 2, 2], [2**62, 2**62]])
def test_counts_must_fill_the_picture(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="run lengths"):
        mask_of(counts, (2, 2))


def test_a_brush_stroke_by_hand() -> None:
    """Two pixels, the second one painted: header, then two repeated blocks of four bytes."""
    bits = (
        f"{8:032b}" + f"{7:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
        + "1" + "00" + "011" + "00000000" + "1" + "00" + "011" + "11111111"
    )  # fmt: skip
    data = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]
    assert decode_brush(data, (1, 2)).tolist() == [[False, True]]
    assert encode_brush(np.array([[False, True]])) == data


def test_a_brush_stroke_with_soft_edges() -> None:
    """label-studio writes pixels that differ as a chunk of words; alpha counts, the colours do not."""
    words = [200, 10, 10, 0, 200, 10, 10, 1, 200, 10, 10, 255]
    bits = f"{12:032b}" + f"{7:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
    bits += "0" + "01" + f"{11:04b}" + "".join(f"{w:08b}" for w in words)
    data = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]
    assert decode_brush(data, (1, 3)).tolist() == [[False, True, True]]


@few
@given(masks)
def test_brush_strokes_come_back(mask: np.ndarray) -> None:
    assert (decode_brush(encode_brush(mask == 1), mask.shape) == (mask == 1)).all()


def test_long_brush_strokes_come_back() -> None:
    mask = np.zeros((300, 400), bool)
    mask[20:250, 17:399] = True
    mask[100, 100] = False
    data = encode_brush(mask)
    assert len(data) < 6000
    assert (decode_brush(data, mask.shape) == mask).all()


@few
@given(st.binary(max_size=40), st.integers(0, 60))
def test_damaged_brush_strokes_are_refused(junk: bytes, cut: int) -> None:
    good = encode_brush(np.eye(4, dtype=bool))
    for data in (list(junk), good[: cut % len(good)], [256], ["a"], [None]):
        with pytest.raises(ValueError, match="brush run lengths"):
            decode_brush(data, (4, 4))


# --- painting --------------------------------------------------------------------------------------------------------
def square(x1: float, y1: float, x2: float, y2: float) -> Region:
    return Region((np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], float),))


def test_the_smaller_object_is_on_top_or_the_later_one() -> None:
    cup, table = Annotation("cup", "0", square(1, 1, 3, 3)), Annotation("table", "1", square(0, 0, 6, 5))
    picture = Picture("p", "p", SIZE, (cup, table))
    values = {"cup": 1, "table": 2}
    found = paint(picture, SIZE, values)
    assert (found.mask == 1).sum() == 4
    assert (found.n_labelled, found.n_covered, found.n_empty) == (30, 4, 0)
    assert (paint(picture, SIZE, values, smaller_on_top=False).mask == 2).all()


def test_of_equal_objects_the_later_one_is_on_top() -> None:
    picture = Picture(
        "p", "p", SIZE, (Annotation("a", "0", square(0, 0, 3, 3)), Annotation("b", "1", square(1, 1, 4, 4)))
    )
    assert (paint(picture, SIZE, {"a": 1, "b": 2}).mask == 2).sum() == 9


def test_several_parts_are_one_object() -> None:
    parts = Region(square(0, 0, 2, 2).polygons + square(1, 1, 3, 3).polygons + square(50, 50, 60, 60).polygons)
    assert paint(Picture("p", "p", SIZE, (Annotation("a", "0", parts),)), SIZE, {"a": 1}).mask.sum() == 7


def test_boxes_alone_are_ignored_under_the_objects_or_filled() -> None:
    objects = (Annotation("a", "0", box=(0, 0, 4, 4)), Annotation("b", "1", square(0, 0, 2, 2)))
    picture = Picture("p", "p", SIZE, objects)
    mask = paint(picture, SIZE, {"a": 1, "b": 2}).mask
    assert {int(v): int((mask == v).sum()) for v in np.unique(mask)} == {0: 14, 2: 4, IGNORE: 12}
    assert (paint(picture, SIZE, {"a": 1, "b": 2}, fill_boxes=True).mask == 1).sum() == 12


def test_labels_without_a_value_are_left_out_and_small_objects_counted() -> None:
    tiny = Annotation("a", "0", square(1.6, 1.6, 1.9, 1.9))
    found = paint(Picture("p", "p", SIZE, (tiny, Annotation("x", "1", square(0, 0, 6, 5)))), SIZE, {"a": 1})
    assert found.mask.sum() == 0
    assert (found.n_empty, found.n_labelled) == (1, 0)


def test_boxes_are_cut_at_the_border_and_made_for_shapes() -> None:
    objects = (
        Annotation("a", "0", box=(-5, 1, 3, 99)),
        Annotation("b", "1", square(1, 2, 3, 4)),
        Annotation("b", "2", square(1, 2, 3, 4), crowd=True),
        Annotation("a", "3", box=(90, 90, 95, 95)),
        Annotation("ignore", "4", square(0, 0, 3, 3)),
        Annotation("a", "5", box=(0, 0, 1, 1), difficult=True),
    )
    picture, values = Picture("p", "p", SIZE, objects), {"a": 1, "b": 2, "ignore": 255}
    counted = [(1, (0, 1, 3, 5), False), (2, (1, 2, 3, 4), False)]
    assert list(boxes_of(picture, SIZE, values)) == [*counted, (1, (0, 0, 1, 1), True)]
    crowd = (2, (1, 2, 3, 4), True)
    assert list(boxes_of(picture, SIZE, values, crowds=True)) == [*counted, crowd, (1, (0, 0, 1, 1), True)]
