# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of a launch: from a launcher's request to `go`."""
