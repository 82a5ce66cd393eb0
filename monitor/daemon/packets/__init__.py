# SPDX-License-Identifier: Apache-2.0
"""The network rules of sessions in nftables: the floor under the cgroup programs."""
