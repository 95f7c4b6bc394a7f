"""A lock that keeps two processes out of one directory."""

import contextlib
import fcntl
import os
from pathlib import Path

from .errors import StoreLockedError

LOCK_NAME = "store.lock"


class DirectoryLock:
    """Holds `directory` until `release`, or until the process ends, however it ends.

    Raises StoreLockedError when somebody holds it (in this process or another), OSError when the
    lock file cannot be opened. The file stays: removing it would let two holders in.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / LOCK_NAME
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            self.release()
            raise StoreLockedError(
                f"the store {directory} is in use by another server (process "
                f"{holder or 'unknown'}); stop it, or choose another directory with --store"
            ) from None
        # Who holds it is a courtesy: a full disk must not keep the store from opening.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others in. Safe to call twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
