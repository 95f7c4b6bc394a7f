"""Asking a large model for rationales and labels (arXiv 2305.02301, section 3.1)."""

from .config import AnnotationConfig
from .errors import AnnotationError
from .run import Outcome, annotate

__all__ = ["AnnotationConfig", "AnnotationError", "Outcome", "annotate"]
