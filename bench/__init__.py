# SPDX-License-Identifier: Apache-2.0
"""What governing costs: the same loads bare, under Landlock alone, under ri and other wrappers."""
