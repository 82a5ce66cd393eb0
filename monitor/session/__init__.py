# SPDX-License-Identifier: Apache-2.0
"""A session, its legal states, and the registry that survives a restart."""
