"""`python -m gistserve.server.demo.child serve …`: a server that ends with whoever started it.

The parent holds the other end of standard input. However it ends, by SIGKILL too, that end closes.
"""

import os
import signal
import threading

from ..cli import main

_STDIN = 0


def _end_with_parent() -> None:
    while os.read(_STDIN, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, name="gistserve-parent", daemon=True).start()
    main()
