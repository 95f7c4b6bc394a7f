"""Result files: what was given is read back, numbers on one line."""

import json
from pathlib import Path
from unittest.mock import patch

from gistserve.bench import results
from gistserve.bench.results import read_result, write_result
from hypothesis import given
from hypothesis import strategies as st

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(figures=VALUES)
def test_figures_come_back_as_they_were(tmp_path_factory, figures: object) -> None:
    path = tmp_path_factory.getbasetemp() / "figures.json"
    with patch.object(results, "provenance", dict):  # asks git, which is slow
        write_result(path, {"figures": figures})
    assert json.loads(path.read_text(encoding="utf-8"))["figures"] == figures


def test_numbers_are_on_one_line_and_strings_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    figures = {"numbers": [1.5, None, 2], "text": "[ a   b ]"}
    write_result(path, figures)
    assert read_result(path).items() >= figures.items()
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    assert '"numbers": [1.5, null, 2],' in lines
    assert '"text": "[ a   b ]"' in lines
