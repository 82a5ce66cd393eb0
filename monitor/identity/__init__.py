# SPDX-License-Identifier: Apache-2.0
"""Who acts and for whom: principals, agents, delegation rights, chains. Pure."""
