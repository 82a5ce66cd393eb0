# SPDX-License-Identifier: Apache-2.0
"""Records of what was decided: composed, chained by hash, stored, explained."""
