# SPDX-License-Identifier: Apache-2.0
"""rictl, ri-exec and ri-monitord: the only place that prints or exits."""
