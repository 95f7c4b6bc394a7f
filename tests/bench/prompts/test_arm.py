"""Requests prove by their usage which arm they went."""

import pytest
from gistserve.bench.load.errors import LoadError
from gistserve.bench.load.sample import Sample
from gistserve.bench.prompts.arm import Arm, check_hits, rotated

KEPT = [{"prompt_tokens": 100, "slots": 9}, {"prompt_tokens": 104, "slots": 9}]


def sample(cached: int | None, gists: int | None, output: int = 8) -> Sample:
    return Sample(0.0, 8, cached_tokens=cached, gist_tokens=gists, output_tokens=output)


def test_each_arm_takes_what_its_cache_explains() -> None:
    check_hits(Arm.none, [sample(0, 0)], [])
    check_hits(Arm.prefix, [sample(100, 0), sample(104, 0)], KEPT)
    check_hits(Arm.gist, [sample(104, 9)], KEPT)


@pytest.mark.parametrize(
    ("arm", "usage", "told"),
    [
        (Arm.none, (16, 0), "16 cached prompt tokens and 0 gist slots.*should be 0 and 0"),
        (Arm.none, (None, None), "an unknown number of cached"),
        (Arm.prefix, (0, 0), "0 cached prompt tokens.*should be 100 and 0"),
        (Arm.prefix, (96, 0), "96 cached"),
        (Arm.prefix, (100, 9), "9 gist slots"),
        (Arm.gist, (100, 0), "0 gist slots.*should be 100 and 9"),
        (Arm.gist, (0, 9), "0 cached"),
    ],
)
def test_another_cache_is_refused(arm: Arm, usage: tuple[int, int], told: str) -> None:
    kept = [] if arm is Arm.none else KEPT
    good = {Arm.none: sample(0, 0), Arm.prefix: sample(100, 0), Arm.gist: sample(100, 9)}[arm]
    with pytest.raises(LoadError, match=f"{arm.label}: .*{told}"):
        check_hits(arm, [good, sample(*usage)], kept)


def test_failed_and_short_answers_are_refused() -> None:
    failed = Sample(0.0, 8, error="HTTP 500: no")
    with pytest.raises(LoadError, match="gist: a request failed: HTTP 500: no"):
        check_hits(Arm.gist, [failed], KEPT)
    with pytest.raises(LoadError, match=r"7 tokens where 8 were asked for.*--kv-cache-memory"):
        check_hits(Arm.none, [sample(0, 0, output=7)], [])


def test_every_arm_comes_first_in_turn() -> None:
    arms = list(Arm)
    assert [rotated(arms, turn)[0] for turn in range(6)] == arms * 2
    assert all(sorted(rotated(arms, turn)) == sorted(arms) for turn in range(3))
