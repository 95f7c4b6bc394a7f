"""``python -m gistserve.bench.gpu``: is everything right and fast on this GPU?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .interpreter import interpret_kernels

LIMIT_S = 460.0
"""Of the eight minutes that a run may take; starting and ending need the rest."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status: 0 done, 1 a test failed or an output is wrong, 2 no CUDA
    device, 3 (of a child) the device stopped answering."""
    options = _parser().parse_args(arguments)
    from . import command

    if not options.dry_run and (missing := command.missing_device()):
        print(missing, file=sys.stderr)
        return 2
    if options.child is not None:
        return command.run_child(options.child, options.journal, options.limit, options.dry_run)
    try:
        names = command.section_names(options.sections, options.sweep)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    output = options.output or command.default_output(options.sweep, options.dry_run)
    return command.run(names, options.limit, output, options.dry_run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gistserve.bench.gpu",
        description="Run the gpu tests, then time the kernels and decode steps, and compare both "
        "with peers and with what the device can reach. Prints a table and writes one JSON file.",
    )
    parser.add_argument(
        "--output", type=Path, help="JSON file; default: named by the device, in bench/results"
    )
    parser.add_argument(
        "--limit", type=float, default=LIMIT_S, help="seconds for everything (default: %(default)s)"
    )
    parser.add_argument(
        "--sections", nargs="+", metavar="NAME", help="only these, of all that a run names"
    )
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="time the kernels under other settings than they choose, instead of a usual run",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="try the script on the CPU, on tiny sizes"
    )
    parser.add_argument("--child", metavar="SECTION", help=argparse.SUPPRESS)
    parser.add_argument("--journal", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    if "--dry-run" in sys.argv:
        interpret_kernels()  # before anything imports one
    raise SystemExit(main())
