"""Parts of a data set."""

import pytest
from gistserve.training.records import DataError, hold_out


def test_holding_out() -> None:
    rest, held = hold_out(list(range(40)), 0.1, seed=1)
    assert len(held) == 4
    assert sorted(rest + held) == list(range(40))
    assert (rest, held) == hold_out(list(range(40)), 0.1, seed=1)
    assert held != hold_out(list(range(40)), 0.1, seed=2)[1]
    with pytest.raises(DataError, match="give validation_data"):
        hold_out([1, 2], 0.1, seed=0)
