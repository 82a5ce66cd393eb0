# SPDX-License-Identifier: Apache-2.0
"""Runtime identity: whether an AI agent's action is allowed, decided when it acts."""

__version__ = "0.1.0"
