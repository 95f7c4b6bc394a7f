"""Equations: their value against Python's own arithmetic, and what is no equation."""

from fractions import Fraction

import pytest
from gistserve.training.step_by_step.equation import normalised, value
from hypothesis import given
from hypothesis import strategies as st

Tree = int | tuple["Tree", str, "Tree"]

trees = st.recursive(
    st.integers(0, 99), lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner), max_leaves=6
)


def spelled(tree: Tree, *, spaced: bool) -> str:
    if isinstance(tree, int):
        return f"{tree}.0" if spaced else str(tree)
    left, sign, right = tree
    gap = " " if spaced else ""
    return (
        f"({gap}{spelled(left, spaced=spaced)}{gap}{sign}{gap}{spelled(right, spaced=spaced)}{gap})"
    )


def computed(tree: Tree) -> Fraction:
    if isinstance(tree, int):
        return Fraction(tree)
    left, right = computed(tree[0]), computed(tree[2])
    return {"+": left.__add__, "-": left.__sub__, "*": left.__mul__, "/": left.__truediv__}[
        tree[1]
    ](right)


@given(trees)
def test_values_are_exact(tree: Tree) -> None:
    try:
        expected: Fraction | None = computed(tree)
    except ZeroDivisionError:
        expected = None
    assert value(spelled(tree, spaced=True)) == expected
    assert value(spelled(tree, spaced=False)) == expected


@given(trees, trees)
def test_one_tree_has_one_spelling(one: Tree, other: Tree) -> None:
    ours = normalised(spelled(one, spaced=True))
    assert ours is not None
    assert ours == normalised(spelled(one, spaced=False))
    assert (ours == normalised(spelled(other, spaced=False))) == (one == other)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("( 84.0 / 2.0 )", 42),
        ("(84 / 2)", 42),
        ("2 + 3 * 4", 14),
        ("-3 - -5", 2),
        ("0.1 + 0.2", Fraction(3, 10)),
        ("((7))", 7),
        ("3.", 3),
    ],
)
def test_what_is_understood(text: str, expected: Fraction | int) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", " ", "( 84.0 / ", "2 3", "2 (3)", "x + 1", "2 ** 9", "7 // 2", "+3", "1e3", "1_000", "007",
     "()", "5, 6", "__import__('os')", "2\n+ 3", "(" * 400, "(" * 250 + "1" + ")" * 249,
     "1+" * 400 + "1", "-" * 499 + "1" * 2, "\u0663 + 1", "9" * 400 + ".0 * 2"],
)  # fmt: skip
def test_what_is_no_equation(text: str) -> None:
    assert value(text) is None
    assert normalised(text) is None


def test_division_by_zero_has_a_spelling_but_no_value() -> None:
    assert value("( 3.0 / 0.0 )") is None
    assert normalised("( 3.0 / 0.0 )") == normalised("3/0") != normalised("3/1")


def test_large_numbers_are_exact_and_quick() -> None:
    assert value("9" * 240 + "*" + "9" * 240) == int("9" * 240) ** 2
