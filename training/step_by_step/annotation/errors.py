"""What ends an annotation; answers that came before it are kept."""


class AnnotationError(RuntimeError):
    """The teacher cannot be asked any further; the message says why and what to do."""
