"""The end of a thread of ours, also for the kernel."""

from __future__ import annotations

import os
import threading
import time


def await_end(thread: threading.Thread, wait_s: float) -> None:
    """Until it has ended, at most so long; and then until the kernel sees it no more, a moment at most.

    From 3.12 on Python warns of forks while the kernel still sees a second thread.
    """
    thread.join(wait_s)
    for _ in range(50):
        if not os.path.exists(f"/proc/self/task/{thread.native_id}"):  # noqa: PTH110 - no pathlib inside a server
            break
        time.sleep(0.0001)
