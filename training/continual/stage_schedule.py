"""The schedule that a configuration asks for, over a stage of a known length."""

from typing import Any

from ..config import ConfigError
from .config import ContinualConfig
from .schedule import ConstantSchedule, CosineSchedule, InfiniteSchedule, Schedule

_PLATEAU = 0.55


def make_schedule(
    config: ContinualConfig, total: int, earlier_plateau: float | None = None
) -> Schedule:
    """The schedule over `total` steps.

    earlier_plateau: where the infinite schedule of the stage before stood; an infinite schedule
    then goes on there without warm-up. ConfigError for phases or rates that do not fit.
    """
    warmup = _steps(config.warmup, total)
    try:
        if config.schedule == "cosine":
            return CosineSchedule(total, warmup, config.learning_rate, config.floor)
        if config.schedule == "constant":
            return ConstantSchedule(total, warmup, config.learning_rate)
        return _infinite(config, total, warmup, earlier_plateau)
    except ValueError as error:
        raise ConfigError(f"schedule: {config.schedule}: {error}") from error


def pre_anneal_step(schedule: Schedule) -> int | None:
    """The last step before the anneal, None for a schedule without one."""
    if not isinstance(schedule, InfiniteSchedule) or schedule.anneal_start == schedule.total:
        return None
    return schedule.anneal_start


def describe_schedule(config: ContinualConfig, schedule: Schedule) -> dict[str, Any]:
    """The schedule as a stage records it, with the plateau at which the next one goes on."""
    facts: dict[str, Any] = {"kind": config.schedule, **vars(schedule)}
    if isinstance(schedule, InfiniteSchedule):
        facts["constant_learning_rate"] = schedule.plateau
    return facts


def _infinite(
    config: ContinualConfig, total: int, warmup: int, earlier_plateau: float | None
) -> InfiniteSchedule:
    given = config.constant_learning_rate
    anneal_start = total - _steps(config.anneal, total)
    if earlier_plateau is None:
        plateau = _PLATEAU * config.learning_rate if given is None else given
        cooldown_end = max(warmup, _steps(config.cooldown_end, total))
        peak = config.learning_rate
    else:
        if given is not None and given != earlier_plateau:
            raise ConfigError(
                f"constant_learning_rate is {given:g}, but the stage before stands at "
                f"{earlier_plateau:g}: leave it out"
            )
        plateau = peak = earlier_plateau
        warmup = cooldown_end = 0
    if anneal_start < 1:
        raise ConfigError(f"anneal {config.anneal:g} leaves nothing of {total} steps before it")
    return InfiniteSchedule(
        total,
        warmup,
        cooldown_end,
        anneal_start,
        peak,
        plateau,
        config.floor,
        config.cooldown_shape,
    )


def _steps(share_or_steps: float, total: int) -> int:
    return round(share_or_steps * total if share_or_steps < 1 else share_or_steps)
