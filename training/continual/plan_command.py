"""`gistserve train continual --plan`: the table of what an update costs."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from transformers import AutoConfig

from ..config import ConfigError, load_config
from .config import ContinualConfig
from .plan import Option, parse_count, plan, short_count


@dataclass(frozen=True)
class PlanRequest:
    """What the command line said, as text; None takes it from the configuration."""

    config: Path | None
    parameters: str | None
    old_tokens: str | None
    new_tokens: str | None
    replay: float | None
    flops_per_second: str | None


def print_plan(request: PlanRequest, console: Console | None = None) -> None:
    """Print the options. ConfigError names what is missing or wrong."""
    config = None if request.config is None else load_config(request.config, ContinualConfig)
    try:
        options = plan(
            _parameters(request, config),
            _count("old-tokens", request.old_tokens, None),
            _count("new-tokens", request.new_tokens, None if config is None else config.tokens),
            _replay(request, config),
            None if request.flops_per_second is None else parse_count(request.flops_per_second),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    (console or Console()).print(_table(options))


def _table(options: list[Option]) -> Table:
    table = Table(title="Training compute, 6 x parameters x tokens")
    for heading in ("", "tokens", "of them old", "FLOPs", "of union", "hours"):
        table.add_column(heading, justify="right" if heading else "left")
    for option in options:
        table.add_row(
            option.name,
            short_count(option.tokens),
            short_count(option.old),
            f"{option.flops:.3g}",
            f"{option.flops / options[-1].flops:.1%}",
            "-" if option.hours is None else f"{option.hours:,.1f}",
        )
    return table


def _count(name: str, given: str | None, configured: int | None) -> int:
    if given is not None:
        return parse_count(given)
    if configured is None:
        raise ConfigError(f"--plan needs --{name}, such as --{name} 300B")
    return configured


def _replay(request: PlanRequest, config: ContinualConfig | None) -> float:
    if request.replay is not None:
        return request.replay
    return 0.0 if config is None else config.replay_ratio


def _parameters(request: PlanRequest, config: ContinualConfig | None) -> int:
    if request.parameters is not None or config is None:
        return _count("parameters", request.parameters, None)
    from .model import count_parameters, load_architecture

    if config.start_from is not None:
        return count_parameters(load_architecture(config.start_from), config.objective)
    sizes = dict(config.new_model or {})
    if "vocab_size" not in sizes and config.vocabulary_size is not None:
        sizes["vocab_size"] = config.vocabulary_size
    if "vocab_size" not in sizes or "model_type" not in sizes:
        raise ConfigError("--plan needs --parameters: the configuration does not tell the size")
    return count_parameters(AutoConfig.for_model(**sizes), config.objective)
