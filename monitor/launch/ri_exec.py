# SPDX-License-Identifier: Apache-2.0
"""ri-exec: run as `python3 -I -S ri_exec.py [OPTION ...] -- CMD [ARG ...]`.

Only finds its modules and hands over: Python keeps no compiled copy of the file it is started with.
"""

import os
import sys

# Isolated mode (-I) searches neither this folder nor the working directory. The command may be a
# link to this file.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))

from monitor.launch.parent import main  # noqa: E402 - the path above comes first

if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
