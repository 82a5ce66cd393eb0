# SPDX-License-Identifier: Apache-2.0
"""Records and map rows: bytes to frozen dataclasses and back; the mirror of the C headers. Pure."""
