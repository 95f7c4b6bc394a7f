"""Linear layers with unstructured-sparse weights."""

from .bitmap import BitmapWeight
from .errors import SparseFormatError
from .segmented_rows import SEGMENT, SegmentedRows
from .two_four import from_2_4, is_2_4

__all__ = [
    "SEGMENT",
    "BitmapWeight",
    "SegmentedRows",
    "SparseFormatError",
    "from_2_4",
    "is_2_4",
]
