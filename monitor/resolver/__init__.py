# SPDX-License-Identifier: Apache-2.0
"""Host names: rules, questions, answers, and what a session may be told. Pure."""
