# SPDX-License-Identifier: Apache-2.0
"""The main job on real input: an unchanged coding agent works, is injected, and is stopped."""
