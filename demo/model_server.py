# SPDX-License-Identifier: Apache-2.0
"""A scripted model behind OpenAI's chat completions API, on loopback.

Stateless towards the agent: which reply is next follows from how many replies the conversation
already holds, so that a repeated request gets the same answer. After each step the caller of
`serving` is told, before the next reply goes out.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from demo.failure import DemoError
from demo.script import INJECTION, Attack, Step

MODEL = "scripted"
# What the profile `coding-agent` grants for a model server on this host.
_PORTS = range(8000, 9000)
_MAX_BODY = 8 << 20


class Conversation:
    """The replies in order, and what the agent told in between."""

    def __init__(self, steps: Sequence[Step], on_done: Callable[[Step, str], None]) -> None:
        self._steps = steps
        self._on_done = on_done
        self._lock = threading.Lock()
        self._told: list[str] = []
        self.problem = ""

    @property
    def done(self) -> int:
        """How many steps the agent has reported the outcome of."""
        return len(self._told)

    def transcript(self) -> str:
        """Everything that commands printed, as the model was told it."""
        return "\n".join(self._told)

    def reply(self, messages: Sequence[dict[str, Any]]) -> Step:
        """The next step after `messages`; raises DemoError where the script cannot go on."""
        answered = sum(1 for message in messages if message.get("role") == "assistant")
        if answered >= len(self._steps):
            raise DemoError(f"the agent asked for reply {answered + 1} of {len(self._steps)}")
        with self._lock:
            if answered > self.done:
                outcome = str(messages[-1].get("content", ""))
                self._told.append(outcome)
                self._on_done(self._steps[answered - 1], outcome)
        step = self._steps[answered]
        if isinstance(step, Attack) and INJECTION not in self.transcript():
            raise DemoError("the agent never read the injected issue text: nothing to obey")
        return step


def _completion(step: Step, number: int) -> dict[str, Any]:
    call = {
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": "bash", "arguments": json.dumps({"command": step.command})},
    }
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "message": {"role": "assistant", "content": step.says, "tool_calls": [call]},
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def _handler(conversation: Conversation) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            if self.path != "/v1/chat/completions" or not 0 < size <= _MAX_BODY:
                self._send(404, {"error": {"message": f"nothing at {self.path}"}})
                return
            messages = json.loads(self.rfile.read(size))["messages"]
            try:
                step = conversation.reply(messages)
            except DemoError as error:
                conversation.problem = str(error)
                self._send(400, {"error": {"message": str(error)}})
                return
            self._send(200, _completion(step, len(messages)))

        def _send(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet: the table at the end says what happened."""

    return Handler


@contextmanager
def serving(conversation: Conversation) -> Iterator[str]:
    """Serve `conversation` while the context lasts; gives the API's base URL."""
    server = _bind(_handler(conversation))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def _bind(handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    for port in _PORTS:
        try:
            return ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError:
            continue
    raise DemoError("no free port for the model server on 127.0.0.1:8000-8999")
