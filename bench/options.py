"""Options that several benches have."""

from pathlib import Path
from typing import Annotated

import typer

ResultOption = Annotated[
    Path, typer.Option(dir_okay=False, help="JSON file; a PNG is put beside it.")
]
ReportOption = Annotated[
    bool, typer.Option("--report", help="Measure nothing; show and draw what the file holds.")
]
