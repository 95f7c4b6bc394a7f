"""Compressed artifacts: gist caches and their store, gist adapters, sparse checkpoints.

Importing it teaches transformers to load sparse checkpoints.
"""

from .sparse.quantizer import register

register()
