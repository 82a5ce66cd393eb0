# SPDX-License-Identifier: Apache-2.0
"""Fuzzers: what reads bytes that anybody may have sent, driven by coverage (atheris, libFuzzer)."""
