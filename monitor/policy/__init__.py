# SPDX-License-Identifier: Apache-2.0
"""Profiles, chain and host features compiled to a Plan, and the reference decision. Pure."""
