"""What is raised where sparse weights are malformed."""


class SparseFormatError(ValueError):
    """A sparse weight whose parts contradict each other or the format."""
