import pytest
from gistserve.server.commands.sizes import parse_size
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 * 2**30),
        ("512 MB", 512 * 10**6),
        ("1.5g", 1_500_000_000),
        ("0.5KiB", 512),
        ("1000000", 1_000_000),
        (" 7b ", 7),
    ],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "2 PiB", "1,5GiB", "0", "0.1", "ib", "1ib"])
def test_other_text_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@given(st.integers(1, 10**15))
def test_plain_numbers_are_bytes(number: int) -> None:
    assert parse_size(str(number)) == number
