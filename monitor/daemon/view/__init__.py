# SPDX-License-Identifier: Apache-2.0
"""A session's private mount namespace, made from outside by root."""
