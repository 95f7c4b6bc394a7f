"""gistserve: serve language models with prompts compressed into gist tokens.

Nothing is imported here: `import gistserve` costs no torch. The parts are `gistserve.server`,
`gistserve.training`, `gistserve.compress`, `gistserve.kernels` and `gistserve.bench`.
"""

__version__ = "0.1.0"
