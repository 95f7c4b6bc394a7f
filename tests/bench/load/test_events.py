"""Events out of bytes, however they were cut."""

from itertools import pairwise

from gistserve.bench.load.events import EventDecoder
from hypothesis import given
from hypothesis import strategies as st

# Without line breaks, which end a line of an event.
LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=12)
CUTS = st.lists(st.integers(0, 500), max_size=20)


def decode(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    decoder = EventDecoder()
    packets = [stream[a:b] for a, b in pairwise(places)]
    return [event for packet in packets for event in decoder.feed(packet)]


@given(st.lists(st.lists(LINE, min_size=1, max_size=3), max_size=5), CUTS, st.booleans())
def test_events_are_the_same_however_the_stream_is_cut(
    events: list[list[str]], cuts: list[int], crlf: bool
) -> None:
    end = "\r\n" if crlf else "\n"
    stream = "".join(
        "".join(f"data: {line}{end}" for line in lines) + end for lines in events
    ).encode()
    assert decode(stream, cuts) == ["\n".join(lines).encode() for lines in events]


def test_comments_names_and_a_missing_space_are_understood() -> None:
    stream = b': ping\n\nevent: error\nid: 7\ndata:{"a": 1}\n\ndata: unfinished\n'
    assert decode(stream, []) == [b'{"a": 1}']


def test_half_a_character_waits_for_its_rest() -> None:
    decoder = EventDecoder()
    stream = 'data: "für"\n\n'.encode()
    cut = stream.index(b"\xc3") + 1
    assert decoder.feed(stream[:cut]) == []
    assert decoder.feed(stream[cut:]) == ['"für"'.encode()]
