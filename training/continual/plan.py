"""What an update costs against training on all data from scratch, before anything is run."""

from dataclasses import dataclass

_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Option:
    """One way to get a model of old and new data.

    old, new: tokens drawn from each; flops: 6 N D (Kaplan et al. 2020, section 2.1), of forward and
    backward pass without attention's quadratic part; hours: at the given rate, None without one.
    """

    name: str
    old: int
    new: int
    flops: float
    hours: float | None

    @property
    def tokens(self) -> int:
        return self.old + self.new


def plan(
    parameters: int,
    old_tokens: int,
    new_tokens: int,
    replay_ratio: float,
    flops_per_second: float | None = None,
) -> list[Option]:
    """Options for a model of `parameters`, trained before on `old_tokens`, with `new_tokens` new.

    First the compute-equivalent update (as many tokens as there are new ones, replay counted in, so
    that some new ones are not read), then the update that reads all new tokens and replays on top,
    last the union from scratch, which the updates are compared with. ValueError for numbers that
    make no sense.
    """
    for name, value in (
        ("parameters", parameters),
        ("old_tokens", old_tokens),
        ("new_tokens", new_tokens),
        ("flops_per_second", flops_per_second),
    ):
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    if not 0 <= replay_ratio < 1:
        raise ValueError(f"replay must be at least 0 and below 1, got {replay_ratio}")

    def option(name: str, old: int, new: int) -> Option:
        flops = 6.0 * parameters * (old + new)
        hours = None if flops_per_second is None else flops / flops_per_second / 3600
        return Option(name, old, new, flops, hours)

    replayed = round(new_tokens * replay_ratio)
    on_top = round(new_tokens * replay_ratio / (1 - replay_ratio))
    return [
        option("equal-compute update", replayed, new_tokens - replayed),
        option("update on all new", on_top, new_tokens),
        option("union from scratch", old_tokens, new_tokens),
    ]


def short_count(count: int) -> str:
    """405M for 405,000,000, with three digits."""
    for name, unit in reversed(_UNITS.items()):
        if count >= unit:
            return f"{count / unit:.3g}{name}"
    return str(count)


def parse_count(text: str) -> int:
    """A number such as 405M, 1.3B, 300e9 or 4096. ValueError for anything else."""
    unit = _UNITS.get(text.strip()[-1:].upper())
    digits = text.strip()[:-1] if unit else text
    try:
        count = round(float(digits) * (unit or 1))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is no number such as 405M, 1.3B or 300e9") from error
    return count
