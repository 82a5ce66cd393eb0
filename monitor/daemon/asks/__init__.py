# SPDX-License-Identifier: Apache-2.0
"""Held actions: what waits, who is asked, and what is answered."""
