# SPDX-License-Identifier: Apache-2.0
"""What an agent may do: models, loading with positions, lint. Pure."""
