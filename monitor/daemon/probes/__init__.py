# SPDX-License-Identifier: Apache-2.0
"""The probes of an instance: compiled, attached and pinned; their tables and their rings."""
