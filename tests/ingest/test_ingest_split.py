"""The split: by photograph, near duplicates together, declared sides kept."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tasks.ingest.split import Placed, split_photographs


def _far(number: int) -> str:
    return f"{random.Random(number).getrandbits(64):016x}"


def _near(value: str, bits: int) -> str:
    return f"{int(value, 16) ^ ((1 << bits) - 1):016x}"


def test_share_and_stability() -> None:
    items = [Placed(f"p{i}", _far(i), None) for i in range(100)]
    split = split_photographs(items, 0.25, 4, seed=1)
    assert split.sides.count("test") == 25
    assert split.sides == split_photographs(items, 0.25, 4, seed=1).sides
    assert split.sides != split_photographs(items, 0.25, 4, seed=2).sides
    more = [Placed(f"q{i}", _far(1000 + i), None) for i in range(10)]
    moved = split_photographs([*items, *more], 0.25, 4, seed=1).sides[:100]
    assert sum(a != b for a, b in zip(split.sides, moved, strict=True)) <= 10


def test_all_crops_of_a_photograph_stand_together() -> None:
    items = [Placed(f"p{i % 10}", _far(i), None) for i in range(60)]
    sides = split_photographs(items, 0.3, 4, seed=0).sides
    assert all(sides[i] == sides[i % 10] for i in range(60))
    assert sides[:10].count("test") == 3


def test_near_duplicates_are_joined_through_others_and_only_up_to_the_bits() -> None:
    a = _far(1)
    b, c = _near(a, 4), _near(a, 8)  # c is 4 bits from b, 8 from a
    items = [
        Placed("a", a, None),
        Placed("b", b, None),
        Placed("c", c, None),
        *(Placed(f"x{i}", _far(50 + i), None) for i in range(9)),
    ]
    for seed in range(8):
        split = split_photographs(items, 0.5, 4, seed)
        assert len(set(split.sides[:3])) == 1
        assert split.num_joined == 3
    assert split_photographs([items[0], items[2]], 0.5, 4, 0).num_joined == 0
    assert set(split_photographs([items[0], items[2]], 0.5, 4, 0).sides) == {"train", "test"}


def test_a_declared_side_holds_for_its_group_and_a_conflict_goes_to_train() -> None:
    a, b = _far(1), _far(2)
    items = [
        Placed("a", a, "test"),
        Placed("a2", _near(a, 2), None),
        Placed("b", b, "test"),
        Placed("b2", _near(b, 3), "train"),
        Placed("c", _far(3), "train"),
    ]
    split = split_photographs(items, 1.0, 4, seed=0)
    assert split.sides == ["test", "test", "train", "train", "train"]
    assert split.num_conflicts == 1


def test_the_extremes() -> None:
    items = [Placed(f"p{i}", _far(i), None) for i in range(4)]
    assert split_photographs(items, 0.0, 4, 0).sides == ["train"] * 4
    assert split_photographs(items, 1.0, 4, 0).sides == ["test"] * 4
    assert split_photographs(items, 0.01, 4, 0).sides.count("test") == 1
    assert split_photographs(items[:1], 0.25, 4, 0).sides == ["train"]


@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 2**64 - 1), st.sampled_from([None, "train", "test"])), min_size=1
    )
)
def test_no_photograph_and_no_look_alike_ever_stands_on_both_sides(drawn: list[tuple[int, int, str | None]]) -> None:
    items = [Placed(f"p{unit}", f"{value & 0xFF:016x}", split) for unit, value, split in drawn]
    sides = split_photographs(items, 0.5, 1, seed=0).sides
    for i, a in enumerate(items):
        for j, b in enumerate(items[:i]):
            alike = (int(a.perceptual_hash, 16) ^ int(b.perceptual_hash, 16)).bit_count() <= 1
            if a.photograph == b.photograph or alike:
                assert sides[i] == sides[j]
