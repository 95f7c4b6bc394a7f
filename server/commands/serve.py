"""`gistserve serve`: load models, open the prompt store and answer HTTP."""

from typing import Any

from ... import __version__
from ..logs import LogFormat
from .address import AddressError, bind
from .model_options import ModelOptions
from .model_source import embedded_source
from .serve_options import ServeOptions, command_signature
from .terminal import err, fail


def serve(**values: Any) -> None:
    """Serve models over an OpenAI-compatible HTTP interface.

    An option is taken from its flag, else from its environment variable, else from the file
    that --config names, else it has its default. Lists are separated by spaces in a variable.
    """
    options = ServeOptions(**values)
    try:
        models = options.models or [ModelOptions(source=embedded_source())]
        listener = bind(options.host, options.port)
    except (ValueError, AddressError) as error:
        fail(str(error), code=2)
    # Only now torch and the web framework are imported: they take seconds.
    if options.log_format is LogFormat.text:
        err.print(f"starting gistserve {__version__}", style="dim", highlight=False)
    from .serving import run

    run(options, models, listener)


serve.__signature__ = command_signature(ServeOptions)  # type: ignore[attr-defined]
