"""The helpers that OpenMP keeps for a thread's parallel loops."""

import contextlib
import ctypes

_PAUSE_SOFT = 1  # omp_pause_soft of omp.h


def release_helpers() -> None:
    """End the helpers of the calling thread; its next parallel loop starts new ones.

    Each thread that computes with torch on a CPU keeps helpers until it ends, and while there are
    more threads than cores, libgomp puts all helpers to sleep after every loop instead of letting
    them wait for the next one. So a thread that has loaded a model and then waits for an engine
    makes every loop of that engine slower.

    Does nothing where torch's OpenMP is older than 5.0, in which omp_pause_resource_all came, or is
    not to be found.
    """
    # No function of that name, or no global namespace of libraries (Windows).
    with contextlib.suppress(AttributeError, TypeError):
        ctypes.CDLL(None).omp_pause_resource_all(_PAUSE_SOFT)
