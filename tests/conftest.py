# SPDX-License-Identifier: Apache-2.0
"""What all tests share: how hypothesis searches."""

from __future__ import annotations

from hypothesis import settings

# No database: an example kept from before a strategy was changed fails in a way that says nothing
# of the code. A failure prints what reproduces it.
settings.register_profile("ri", database=None, deadline=None, print_blob=True)
settings.load_profile("ri")
