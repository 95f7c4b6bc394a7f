"""How sparse the model is at each step."""


def cubic_sparsity(
    step: int,
    total_steps: int,
    final: float,
    *,
    initial: float = 0.0,
    warmup: float = 0.1,
    cooldown: float = 0.3,
) -> float:
    """Share of zeros after `step` of `total_steps` optimizer steps.

    `initial` for the first `warmup` share of all steps, `final` for the last `cooldown` share, and
    final + (initial - final)(1 - t)^3 with t from 0 to 1 in between (Zhu & Gupta 2017, as in
    arXiv 2205.11005, equation 10). ValueError for shares that are negative or over 1 together.
    """
    if min(warmup, cooldown) < 0 or warmup + cooldown > 1:
        raise ValueError(
            f"warmup ({warmup}) and cooldown ({cooldown}) are shares of all steps: not negative, "
            "together at most 1"
        )
    start, end = warmup * total_steps, (1 - cooldown) * total_steps
    if step >= end:
        return final
    if step <= start:
        return initial
    return final + (initial - final) * (1 - (step - start) / (end - start)) ** 3
