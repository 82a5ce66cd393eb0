# SPDX-License-Identifier: Apache-2.0
"""The resolver that every session's questions go to; knows nothing of the daemon around it."""
