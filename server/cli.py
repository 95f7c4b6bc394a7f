"""The command line: `gistserve serve | prompts | chat | demo | compress | train | bench`.

`train` and `bench` belong to other wings of the package and are imported only when they are asked
for, so that a server never imports a trainer.
"""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from .commands import chat, compress, demo, prompts, serve

_LAZY_COMMANDS = {"train": "..training.cli", "bench": "..bench.cli"}


class _RootGroup(TyperGroup):
    """The root command; knows the names of the lazy sub-commands without importing them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *_LAZY_COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _LAZY_COMMANDS:
            return super().get_command(ctx, cmd_name)
        module = import_module(_LAZY_COMMANDS[cmd_name], __package__)
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=_RootGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.add_typer(prompts.app, name="prompts")
app.command("chat")(chat.chat)
app.command("demo")(demo.demo)
app.add_typer(compress.app, name="compress")


def _engine_generate(model: Any) -> Any:
    from .engine.engine_generate import engine_generate

    return engine_generate(model)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"gistserve {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Serve language models with prompts compressed into a few cached gist tokens."""
    # The trainers' commands may let the engine write texts, which they do not know by themselves.
    context.obj = _engine_generate


def main() -> None:
    """Entry point of the `gistserve` command."""
    app(prog_name="gistserve")


if __name__ == "__main__":
    main()
