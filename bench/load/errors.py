"""What ends a load test."""


class LoadError(ValueError):
    """The test cannot be made as asked for; the message says why and what to do."""
