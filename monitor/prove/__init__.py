# SPDX-License-Identifier: Apache-2.0
"""Known ways out of an agent sandbox, tried in real sessions of a running daemon."""
