"""How engines share the memory for keys and values."""

import re
from dataclasses import replace

import pytest
from gistserve.server.engine import kv_demand
from gistserve.server.engine.device_memory import DeviceMemory
from gistserve.server.engine.kv_demand import KVDemand, kv_budget
from gistserve.server.engine.kv_share import KVClaim, share_out
from hypothesis import assume, given
from hypothesis import strategies as st

GIB = 2**30
DEMAND = KVDemand(
    block_bytes=16 * 1000,
    block_size=16,
    max_model_len=1600,
    max_num_seqs=4,
    num_scratch_blocks=0,
    memory=None,
)
SEQUENCE = 100 * DEMAND.block_bytes


def granted(claims, total, **options):
    grants = share_out(claims, total, **{"capped": False, **options})
    return {name: grant.num_blocks for name, grant in grants.items()}


def test_equally_many_of_each_one_s_longest_sequences():
    claims = {
        "teacher": KVClaim(replace(DEMAND, block_bytes=3 * DEMAND.block_bytes)),
        "student": KVClaim(DEMAND),
        "short": KVClaim(replace(DEMAND, max_model_len=400)),
    }
    total = int(8.5 * SEQUENCE)
    assert granted(claims, total) == {"teacher": 200, "student": 200, "short": 50}


def test_a_fixed_share_is_a_part_of_the_whole():
    claims = {"a": KVClaim(DEMAND, share=0.5), "b": KVClaim(DEMAND), "c": KVClaim(DEMAND)}
    assert granted(claims, 8 * SEQUENCE) == {"a": 400, "b": 200, "c": 200}
    alone = {"a": KVClaim(DEMAND, share=0.5)}
    assert granted(alone, 8 * SEQUENCE) == {"a": 400}  # the rest is left to others


def test_no_more_than_can_be_used():
    claims = {"a": KVClaim(DEMAND)}
    assert granted(claims, 100 * SEQUENCE, capped=True) == {"a": 400}
    assert granted(claims, 100 * SEQUENCE) == {"a": 10_000}


def test_blocks_that_pad_are_paid_from_the_same_part():
    claims = {"a": KVClaim(replace(DEMAND, num_scratch_blocks=1))}
    assert granted(claims, SEQUENCE) == {"a": 99}


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ((0.5, 0.6), "kv_share of a, b add up to 1.1, more than 1"),
        ((0.4, 0.6, None), "kv_share of a, b add up to 1, which leaves nothing for c"),
    ],
)
def test_shares_that_are_too_large(shares, said):
    claims = {
        name: KVClaim(DEMAND, share=share) for name, share in zip("abc", shares, strict=False)
    }
    with pytest.raises(ValueError, match=re.escape(said)):
        share_out(claims, 100 * SEQUENCE, capped=False)


def test_shares_of_ten_tenths_are_a_whole():
    claims = {str(i): KVClaim(DEMAND, share=0.1) for i in range(10)}
    assert set(granted(claims, 10 * SEQUENCE).values()) == {100}


def test_a_length_that_does_not_fit_is_lowered_or_refused():
    claims = {"a": KVClaim(DEMAND), "b": KVClaim(DEMAND)}
    lowered = share_out(claims, SEQUENCE, capped=False)
    assert {grant.max_model_len for grant in lowered.values()} == {800}
    claims["b"] = KVClaim(DEMAND, exact_length=True)
    with pytest.raises(ValueError, match="b gets") as refused:
        share_out(claims, SEQUENCE, capped=False)
    said = str(refused.value)
    assert "50% of 1.53 MiB, but one sequence of 1600 tokens takes 1.53 MiB" in said
    assert "raise kv_cache_memory to 3.06 MiB or more" in said
    assert "lower max_model_len to 800 or less" in said and "raise its kv_share" in said


def test_what_is_asked_for_is_enough():
    claims = {"a": KVClaim(DEMAND, exact_length=True), "b": KVClaim(DEMAND, share=0.3)}
    with pytest.raises(ValueError, match="a gets") as refused:
        share_out(claims, SEQUENCE, capped=False)
    found = re.search(r"raise kv_cache_memory to ([\d.]+) MiB", str(refused.value))
    assert found is not None
    enough = int(float(found[1]) * 2**20)
    assert granted(claims, enough)["a"] == 100
    with pytest.raises(ValueError, match="a gets"):
        share_out(claims, int(enough * 0.99), capped=False)


def test_memory_for_nothing_at_all():
    with pytest.raises(ValueError, match="raise kv_cache_memory") as refused:
        share_out({"a": KVClaim(DEMAND)}, 10, capped=False)
    assert "lower max_model_len" not in str(refused.value)


@st.composite
def claims_of_some(draw):
    demands = st.builds(
        KVDemand,
        block_bytes=st.integers(1, 10**6),
        block_size=st.sampled_from([1, 4, 16]),
        max_model_len=st.integers(1, 5000),
        max_num_seqs=st.integers(1, 8),
        num_scratch_blocks=st.integers(0, 1),
        memory=st.none(),
    )
    shares = st.none() | st.sampled_from([0.1, 0.2, 0.25])
    claims = st.builds(KVClaim, demands, shares, st.booleans())
    return draw(st.dictionaries(st.sampled_from("abc"), claims, min_size=1))


@given(claims_of_some(), st.integers(0, 10**9), st.booleans())
def test_any_division_fits_and_is_fair(claims, total, capped):
    try:
        grants = share_out(claims, total, capped=capped)
    except ValueError:
        assume(False)
    spent = 0
    rest = 1 - sum(claim.share or 0 for claim in claims.values())
    weights = {
        name: claim.demand.sequence_blocks * claim.demand.block_bytes
        for name, claim in claims.items()
        if claim.share is None
    }
    for name, claim in claims.items():
        demand, grant = claim.demand, grants[name]
        taken = (grant.num_blocks + demand.num_scratch_blocks) * demand.block_bytes
        spent += taken
        part = total * (claim.share or rest * weights.get(name, 0) / sum(weights.values() or [1]))
        assert taken <= part * (1 + 1e-9)
        if not (capped and grant.num_blocks == demand.most_blocks):
            assert taken + demand.block_bytes > part * (1 - 1e-9)
        assert 1 <= grant.max_model_len <= grant.num_blocks * demand.block_size
        assert grant.max_model_len == demand.max_model_len or not claim.exact_length
        assert not capped or grant.num_blocks <= demand.most_blocks
    assert spent <= total


def test_a_device_s_memory_after_all_steps_at_once():
    first = DeviceMemory(total=80 * GIB, in_use=20 * GIB, step=2 * GIB, graphs=GIB)
    second = DeviceMemory(total=80 * GIB, in_use=21 * GIB, step=3 * GIB, graphs=0)
    demands = [replace(DEMAND, memory=memory) for memory in (first, second)]
    assert kv_budget(demands, 0.9) == (72 - 21 - 5 - 1) * GIB
    with pytest.raises(ValueError, match="no memory is left"):
        kv_budget(demands, 0.3)


def test_main_memory_is_shared_as_a_whole(monkeypatch):
    monkeypatch.setattr(kv_demand, "host_memory_budget", lambda: 123)
    assert kv_budget([DEMAND, DEMAND], 0.9) == 123
