#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""An approver behind a webhook: takes asks over HTTP, and answers when a person has.

    approvers:
      - post: http://127.0.0.1:8899/
        secret_file: /etc/ri/approver.secret

    ask_webhook.py --secret-file FILE [--port 8899] [--socket /run/ri/ri.sock]

Shows each ask on standard output and reads answers from standard input, a line each: `ID yes`,
`ID no`, `ID yes 10m`, and what stands behind that is the reason. In place of the two, put the room
of your chat. It needs no rights of its own: each ask comes with a token that answers just that one.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import http.client
import json
import re
import shlex
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LARGEST_ASK = 4 << 20
OLDEST_SECONDS = 300
LINE = re.compile(r"(\w+) (yes|no)(?: ([0-9]+[smhd]))?(?: (.+))?")


class Asks(ThreadingHTTPServer):
    """The receiver, and the asks that it got."""

    def __init__(self, port: int, secret: bytes) -> None:
        super().__init__(("127.0.0.1", port), Receiver)
        self.secret = secret
        self.tokens: dict[str, str] = {}


class Receiver(BaseHTTPRequestHandler):
    """One request: checked, shown, and taken with 202, because the answer comes later."""

    server: Asks

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(min(length, LARGEST_ASK))
        if not self.genuine(body):
            self.send_error(403)
            return
        ask = json.loads(body)
        self.server.tokens[ask["id"]] = ask["token"]
        action = shlex.join(ask["argv"]) or ask["object"]
        text = f"{ask['id']}: {' > '.join(ask['chain'])} wants {ask['verb']} {action}: {ask['why']}"
        # What an agent chose must not act on the terminal.
        print("".join(each if each.isprintable() else "?" for each in text), flush=True)
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def genuine(self, body: bytes) -> bool:
        """Whether ri-monitord sent it, and not long ago."""
        stamp = self.headers.get("X-RI-Timestamp", "")
        if (
            not re.fullmatch(r"[0-9]{1,12}", stamp)
            or abs(time.time() - int(stamp)) > OLDEST_SECONDS
        ):
            return False
        made = hmac.new(self.server.secret, stamp.encode() + b"." + body, hashlib.sha256)
        given = self.headers.get("X-RI-Signature", "").encode()
        return hmac.compare_digest(f"v1={made.hexdigest()}".encode(), given)

    def log_message(self, format: str, *arguments: object) -> None:
        """The asks are all that is shown."""


def answer(server: Asks, path: str, line: str) -> str:
    """Give the daemon the answer in `line`; what to tell the person."""
    match = LINE.fullmatch(line.strip())
    if match is None:
        return "say ID yes|no [TIME] [REASON]"
    identity, word, duration, why = match.groups()
    if identity not in server.tokens:
        return f"no ask {identity}"
    body = {"token": server.tokens[identity], "for": duration, "why": why}
    connection = http.client.HTTPConnection("ri")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(path)
    verb = "approve" if word == "yes" else "deny"
    connection.request("POST", f"/v1/asks/{identity}/{verb}", json.dumps(body))
    response = connection.getresponse()
    found = json.loads(response.read())
    connection.close()
    return f"{identity} {word}: done" if response.status == 200 else found["error"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Takes asks by webhook, answers over the API.")
    parser.add_argument("--secret-file", type=Path, required=True)
    parser.add_argument("--port", type=int, default=8899)
    parser.add_argument("--socket", default="/run/ri/ri.sock")
    given = parser.parse_args()
    server = Asks(given.port, given.secret_file.read_bytes().strip())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"listening on port {server.server_port}", flush=True)
    for line in sys.stdin:
        try:
            print(answer(server, given.socket, line), flush=True)
        except OSError as error:
            print(f"the daemon cannot be reached: {error}", flush=True)


if __name__ == "__main__":
    main()
