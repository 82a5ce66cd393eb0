# SPDX-License-Identifier: Apache-2.0
"""An API that answers what a test tells it to, on a Unix socket; remembers what it was asked."""

from __future__ import annotations

import json
import socketserver
import threading
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

# (method, path, query, body) -> (status, body); None closes the connection without an answer.
Answer = tuple[int, Any] | None
Behaviour = Callable[[str, str, dict[str, str], Any], Answer]


class FakeApi:
    """Serves in a thread. Without a behaviour, `answers` maps paths to bodies."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.answers: dict[str, Any] = {}
        self.behaviour: Behaviour | None = None
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer("GET")

            def do_POST(self) -> None:
                self.answer("POST")

            def answer(self, method: str) -> None:
                url = urllib.parse.urlsplit(self.path)
                query = dict(urllib.parse.parse_qsl(url.query, errors="surrogateescape"))
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                fake.requests.append((method, url.path, query, body))
                answer = fake.answer(method, url.path, query, body)
                if answer is None:
                    return
                status, document = answer
                data = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                if "follow" not in query:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def address_string(self) -> str:
                return "unix"

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

        self._server = Server(str(socket), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
        if self.behaviour is not None:
            return self.behaviour(method, path, query, body)
        if path in self.answers:
            return 200, self.answers[path]
        return 404, {"error": f"nothing at {path}", "hint": "ask for something else"}

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


SESSION = "0199aaaa-bbbb-7ccc-8ddd-eeeeffff0001"


def session(**changes: Any) -> dict[str, Any]:
    """One session as GET /v1/sessions gives it."""
    return {
        "id": SESSION,
        "agent": "spiffe://test.example/agent/demo/coder",
        "chain": ["user:alice", "spiffe://test.example/agent/demo/coder"],
        "user": "alice",
        "profile": "coding-agent",
        "state": "running",
        "hold": None,
        "denied": None,
        "created": 1_700_000_000.0,
        "expires": None,
        "pid": 4711,
        "why": "",
        "workspace": "/home/alice/shop",
        "purpose": "",
        "observe": False,
        "counts": {"allow": 12, "deny": 3, "would-deny": 0, "lost": 0},
    } | changes


def record(number: int, **changes: Any) -> dict[str, Any]:
    """One record as GET /v1/records gives it."""
    return {
        "id": number,
        "time": "2026-01-31T13:00:00.123456Z",
        "session": SESSION,
        "agent": "spiffe://test.example/agent/demo/coder",
        "chain": ["user:alice", "spiffe://test.example/agent/demo/coder"],
        "pid": 4712,
        "exe": "/usr/bin/cat",
        "verb": "file.open",
        "object": "/etc/shadow",
        "verdict": "deny",
        "reason": "no rule of coding-agent lists it",
        "rule": None,
        "mechanism": "landlock",
        "count": 1,
    } | changes
