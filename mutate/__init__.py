# SPDX-License-Identifier: Apache-2.0
"""Switches each control off in turn and looks whether anything notices: `make mutate`."""
