# SPDX-License-Identifier: Apache-2.0
"""A daemon of one's own, beside any that runs on this host, and the commands that talk to it."""

from contextlib import contextmanager


@contextmanager
def daemon(*a):
    yield None
