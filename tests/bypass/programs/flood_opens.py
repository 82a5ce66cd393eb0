# SPDX-License-Identifier: Apache-2.0
"""Open NAME in COUNT threads at once: `flood_opens.py NAME COUNT`; how many got it."""

import os
import sys
import threading

from attempt import done, refused

name, count = sys.argv[1], int(sys.argv[2])
gained: list[int] = []


def one() -> None:
    try:
        gained.append(os.open(name, os.O_RDONLY))
    except OSError:
        return


threading.stack_size(65536)
threads = [threading.Thread(target=one, daemon=True) for _ in range(count)]
for each in threads:
    each.start()
for each in threads:
    each.join()
if gained:
    done(len(gained))
refused("all")
