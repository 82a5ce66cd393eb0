# SPDX-License-Identifier: Apache-2.0
"""The gate: a process of its own that answers actions which wait for a decision."""
