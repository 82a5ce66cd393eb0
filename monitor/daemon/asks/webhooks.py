# SPDX-License-Identifier: Apache-2.0
"""An approver behind a URL: the ask is posted, signed; the answer comes back, or later.

    X-RI-Timestamp: Unix seconds
    X-RI-Signature: v1=HMAC-SHA256(secret, TIMESTAMP "." BODY) in hexadecimal

An answer without a body means that it comes later, over the API with the ask's token.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
import time
from pathlib import Path

from monitor.daemon.asks.programs import LARGEST_REPLY, ApproverFailed
from monitor.daemon.asks.reply import BadReply, Reply, parse
from monitor.daemon.config import Approver

SHORTEST_SECRET = 16
LARGEST_SECRET = 4096
FAILURE = 300  # redirects are not followed


async def ask(approver: Approver, body: bytes) -> Reply | None:
    """Post the ask once; None: the answer may come later. ApproverFailed."""
    import aiohttp

    stamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "X-RI-Timestamp": stamp,
        "X-RI-Signature": signature(secret(approver.secret_file), stamp, body),
    }
    limit = aiohttp.ClientTimeout(total=approver.timeout)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit, headers={"User-Agent": "ri-monitord"}) as client,
            client.post(
                approver.post, data=body, headers=headers, allow_redirects=False
            ) as response,
        ):
            if response.status >= FAILURE:
                raise ApproverFailed(f"it answered with HTTP status {response.status}")
            output = b""
            async for piece in response.content.iter_any():
                output += piece
                if len(output) > LARGEST_REPLY:
                    raise ApproverFailed(f"it answered with more than {LARGEST_REPLY} bytes")
    except TimeoutError:
        raise ApproverFailed(f"no answer within {approver.timeout:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise ApproverFailed(f"cannot reach it: {str(error)[:200] or type(error).__name__}") from (
            error
        )
    try:
        return parse(output)
    except BadReply as error:
        raise ApproverFailed(str(error)) from error


def signature(key: bytes, stamp: str, body: bytes) -> str:
    """What the receiver computes too, and compares."""
    return "v1=" + hmac.new(key, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def secret(file: Path | None) -> bytes:
    """The secret, read anew each time so that it can be changed. ApproverFailed."""
    assert file is not None
    try:
        with file.open("rb") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            found = opened.read(LARGEST_SECRET + 1).strip()
    except OSError as error:
        raise ApproverFailed(f"cannot read {file}: {error.strerror}") from error
    if mode & 0o077:
        raise ApproverFailed(f"{file} is open to others than its owner: chmod 600 it")
    if not SHORTEST_SECRET <= len(found) <= LARGEST_SECRET:
        raise ApproverFailed(f"{file} holds from {SHORTEST_SECRET} to {LARGEST_SECRET} bytes")
    return found
