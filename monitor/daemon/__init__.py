# SPDX-License-Identifier: Apache-2.0
"""keeper, loader and worker: wiring and effects."""
