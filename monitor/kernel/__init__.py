# SPDX-License-Identifier: Apache-2.0
"""One module per kernel interface; thin; raises OSError; knows no session."""
