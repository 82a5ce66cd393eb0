# SPDX-License-Identifier: Apache-2.0
"""ri-exec: the lifeline parent and the child between fork and exec. Standard library only."""
