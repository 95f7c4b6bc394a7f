"""Correctness and speed of everything that runs on a CUDA device, in a few minutes."""
