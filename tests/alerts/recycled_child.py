"""A program to be recycled, in one of a few tempers. Prints its pid once it is ready.

meek        ends on TERM
stubborn    ignores TERM
slow FILE   on TERM waits until FILE exists
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def main(temper: str, file: str = "") -> None:
    def wait_for_file(*_: object) -> None:
        while not Path(file).exists():
            time.sleep(0.01)
        os._exit(0)

    if temper == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif temper == "slow":
        signal.signal(signal.SIGTERM, wait_for_file)
    print(os.getpid(), flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
