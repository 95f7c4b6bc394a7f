"""Linear layers with unstructured-sparse weights."""

from .bitmap import BitmapWeight
from .bitmap_tiles import TILE_COLUMNS, BitmapTiles
from .choice import DECODE_BATCH, Format, choose_format
from .csr import CsrWeight
from .dense import DenseWeight
from .errors import SparseFormatError
from .linear import SparseLinear
from .operator import RuntimeWeight, sparse_linear
from .reference import reference_sparse_linear
from .segmented_rows import SEGMENT, SegmentedRows
from .two_four import from_2_4, is_2_4

__all__ = [
    "DECODE_BATCH",
    "SEGMENT",
    "TILE_COLUMNS",
    "BitmapTiles",
    "BitmapWeight",
    "CsrWeight",
    "DenseWeight",
    "Format",
    "RuntimeWeight",
    "SegmentedRows",
    "SparseFormatError",
    "SparseLinear",
    "choose_format",
    "from_2_4",
    "is_2_4",
    "reference_sparse_linear",
    "sparse_linear",
]
