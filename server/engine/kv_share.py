"""Shares the memory for keys and values out between engines.

The rule: a fixed share is a part of the whole. What these leave goes to the other engines in
proportion to what one sequence of their ``max_model_len`` takes, so that each holds equally many
of its own longest sequences. Each must hold at least one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from .kv_demand import KVDemand

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class KVClaim:
    """What one engine asks for."""

    demand: KVDemand
    share: float | None = None
    """Fixed part of the whole, above 0 and at most 1; None for a part in proportion."""
    exact_length: bool = False
    """Whether ``demand.max_model_len`` was asked for, and must not be lowered to what fits."""


@dataclass(frozen=True, slots=True)
class KVGrant:
    """What it gets."""

    num_blocks: int
    """For sequences; at least one sequence of ``max_model_len`` fits."""
    max_model_len: int


def share_out(claims: Mapping[str, KVClaim], total: int, *, capped: bool) -> dict[str, KVGrant]:
    """Divide ``total`` bytes between engines, given by name.

    With ``capped`` nobody gets more than as many of its longest sequences as it runs at once.

    Raises:
        ValueError: the fixed shares leave nothing, or one engine's part is too small for a
            sequence; the message tells the numbers.
    """
    return {
        name: _grant(name, claims[name], fraction, total, capped)
        for name, fraction in _fractions(claims).items()
    }


def _fractions(claims: Mapping[str, KVClaim]) -> dict[str, Fraction]:
    """Each engine's part of the whole; they add up to 1, or less where all are fixed."""
    fixed = {
        name: Fraction(str(claim.share))
        for name, claim in claims.items()
        if claim.share is not None
    }
    rest = 1 - sum(fixed.values(), Fraction(0))
    others = {
        name: claim.demand.sequence_blocks * claim.demand.block_bytes
        for name, claim in claims.items()
        if name not in fixed
    }
    if rest < 0 or (others and rest == 0):
        raise ValueError(
            f"the kv_share of {', '.join(fixed)} add up to {float(1 - rest):g}"
            + (f", which leaves nothing for {', '.join(others)}" if rest == 0 else ", more than 1")
        )
    weights = sum(others.values())
    in_proportion = {name: rest * Fraction(weight, weights) for name, weight in others.items()}
    parts = fixed | in_proportion
    return {name: parts[name] for name in claims}


def _grant(name: str, claim: KVClaim, fraction: Fraction, total: int, capped: bool) -> KVGrant:
    demand = claim.demand
    num_blocks = demand.num_blocks(int(total * fraction))
    if capped:
        num_blocks = min(num_blocks, demand.most_blocks)
    needed = demand.sequence_blocks if claim.exact_length else 1
    if num_blocks < needed:
        raise ValueError(_too_small(name, demand, fraction, total, num_blocks, needed))
    fitting = min(demand.max_model_len, num_blocks * demand.block_size)
    return KVGrant(num_blocks, fitting)


def _too_small(
    name: str, demand: KVDemand, fraction: Fraction, total: int, num_blocks: int, needed: int
) -> str:
    length = min(demand.max_model_len, needed * demand.block_size)
    bytes_needed = (needed + demand.num_scratch_blocks) * demand.block_bytes
    remedies = [f"raise kv_cache_memory to {_mebibytes(-(-bytes_needed // fraction))} or more"]
    if num_blocks > 0:
        remedies.append(f"lower max_model_len to {num_blocks * demand.block_size} or less")
    if fraction < 1:
        remedies.append("raise its kv_share")
    return (
        f"{name} gets {_mebibytes(int(total * fraction))} for keys and values, "
        f"{float(fraction):.0%} of {_mebibytes(total)}, but one sequence of {length} tokens takes "
        f"{_mebibytes(bytes_needed)}; {', or '.join(remedies)}"
    )


def _mebibytes(num_bytes: int) -> str:
    """Rounded up, so that what is asked for is enough."""
    return f"{-(-num_bytes * 100 // _MIB) / 100:g} MiB"
