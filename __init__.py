"""gistserve: serve language models with prompts compressed into gist tokens."""

__version__ = "0.1.0"
