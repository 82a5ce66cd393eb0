# SPDX-License-Identifier: Apache-2.0
"""What the daemon answers over its socket, and to whom."""
