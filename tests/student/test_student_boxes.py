"""Boxes change convention at the student's boundary and nowhere else in the text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.student.boxes import convert_text

SIDES = st.integers(28, 1000)
NORM = st.integers(0, 1000)
TEXT = (
    "<|object_ref_start|>Moderate noise<|object_ref_end|><|box_start|>(0,250),(500,1000)<|box_end|>, "
    "<|object_ref_start|>Severe noise<|object_ref_end|><|box_start|>(3,7),(999,1000)<|box_end|>."
)


def box(*corners: int) -> str:
    x1, y1, x2, y2 = corners
    return f"<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"


def corners_of(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def test_known_boxes() -> None:
    converted = convert_text(TEXT, "norm1000", "pixels", 168, 112)
    assert converted == TEXT.replace("(0,250),(500,1000)", "(0,28),(84,112)").replace(
        "(3,7),(999,1000)", "(1,1),(168,112)"
    )


def test_equal_conventions_leave_the_text() -> None:
    assert convert_text("<|box_start|>( 5 , 5.50 )", "pixels", "pixels", 7, 7) == "<|box_start|>( 5 , 5.50 )"


@given(SIDES, SIDES, st.data())
def test_pixels_survive_the_round_trip(width: int, height: int, data: st.DataObject) -> None:
    x, y = st.integers(0, width), st.integers(0, height)
    text = box(data.draw(x), data.draw(y), data.draw(x), data.draw(y))
    there = convert_text(text, "pixels", "norm1000", width, height)
    assert convert_text(there, "norm1000", "pixels", width, height) == text


@given(SIDES, SIDES, st.tuples(NORM, NORM, NORM, NORM))
def test_norm1000_moves_by_half_a_pixel_at_most(width: int, height: int, corners: tuple[int, int, int, int]) -> None:
    there = convert_text(box(*corners), "norm1000", "pixels", width, height)
    back = corners_of(convert_text(there, "pixels", "norm1000", width, height))
    for i, (before, after) in enumerate(zip(corners, back, strict=True)):
        assert abs(before - after) <= 500 / (width, height)[i % 2] + 0.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a (10,10),(20,20) outside", "a (10,10),(20,20) outside"),
        ("<|box_start|>(10,10),(20,20", "<|box_start|>(100,100),(20,20"),
        (
            "<|box_start|> ( 10 , 10.4 ) and (90,200)<|box_end|> (1,1)",
            "<|box_start|> (100,104) and (900,1000)<|box_end|> (1,1)",
        ),
        ("<|box_start|>(-3,x),(,)<|box_end|>", "<|box_start|>(-3,x),(,)<|box_end|>"),
        (f"<|box_start|>({'9' * 400},1)", f"<|box_start|>({'9' * 400},1)"),
        ("<|box_start|><|box_start|>(1,1)<|im_end|>(1,1)", "<|box_start|><|box_start|>(10,10)<|im_end|>(1,1)"),
    ],
)
def test_malformed_text(text: str, expected: str) -> None:
    assert convert_text(text, "pixels", "norm1000", 100, 100) == expected


@given(
    st.lists(st.sampled_from(["<|box_start|>", "<|box_end|>", "(", ")", ",", "1", "9" * 7, ".", "x", " "])).map("".join)
)
def test_no_text_raises(text: str) -> None:
    converted = convert_text(text, "pixels", "norm1000", 56, 84)
    assert re.sub(r"[\d. ]", "", converted) == re.sub(r"[\d. ]", "", text)
