# SPDX-License-Identifier: Apache-2.0
"""The daemon's API over its Unix socket. `http.client` is imported by the first request."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from monitor.cli.failure import CommandError, UnreachableError, UsageError

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

DEFAULT_SOCKET = "/run/ri/ri.sock"
SOCKET_VARIABLE = "RI_SOCKET"
ANSWER_SECONDS = 60.0
# HTTP statuses from here on are failures; this one says that the question was wrong.
FAILURE = MISUNDERSTOOD = 400
CONNECT_HINTS = {
    errno.ENOENT: "start the daemon (systemctl start ri-monitord), or name its socket with"
    f" --socket or {SOCKET_VARIABLE}",
    errno.ECONNREFUSED: "the socket is there, but no daemon: systemctl start ri-monitord",
    errno.EACCES: "the socket's folder must let you in",
}

Parameters = Mapping[str, str | int | float | None]


class Client:
    """Requests to one daemon. Every method raises UnreachableError, or CommandError if refused."""

    def __init__(self, socket: str | None = None) -> None:
        self.socket = socket or os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET

    def get(
        self, path: str, parameters: Parameters | None = None, seconds: float = ANSWER_SECONDS
    ) -> dict[str, Any]:
        """The decoded answer. Asked a second time if the daemon was restarted in between."""
        target = path + _query(parameters or {})
        try:
            return self._request("GET", target, None, seconds)
        except _InterruptedError:
            return self._request("GET", target, None, seconds)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The decoded answer to a change; never sent twice."""
        import json

        return self._request("POST", path, json.dumps(body), ANSWER_SECONDS)

    def lines(self, path: str, parameters: Parameters) -> Iterator[dict[str, Any]]:
        """The objects of an endless answer, one a line, until the daemon closes it."""
        connection = self._connect(None)
        try:
            response = self._send(connection, "GET", path + _query(parameters), None)
            if response.status >= FAILURE:
                raise _refusal(response.status, response.read())
            yield from self._objects(response)
        finally:
            connection.close()

    def _objects(self, response: HTTPResponse) -> Iterator[dict[str, Any]]:
        from http.client import HTTPException

        while True:
            try:
                line = response.readline()
            except (OSError, HTTPException):
                return
            # A line without its end was cut off with the connection.
            if not line.endswith(b"\n"):
                return
            if line.strip():
                yield self._decoded(line)

    def _request(
        self, method: str, target: str, body: str | None, seconds: float
    ) -> dict[str, Any]:
        from http.client import HTTPException

        connection = self._connect(seconds)
        with contextlib.closing(connection):
            response = self._send(connection, method, target, body)
            try:
                data = response.read()
            except TimeoutError as error:
                raise self._silent(seconds) from error
            except (OSError, HTTPException) as error:
                raise _InterruptedError(
                    f"the daemon at {self.socket} broke off its answer: {error or 'closed'}",
                    "see `journalctl -u ri-monitord`",
                ) from error
        if response.status >= FAILURE:
            raise _refusal(response.status, data)
        return self._decoded(data)

    def _connect(self, seconds: float | None) -> HTTPConnection:
        import socket
        from http.client import HTTPConnection

        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            stream.settimeout(seconds)
            stream.connect(self.socket)
        except OSError as error:
            stream.close()
            if isinstance(error, TimeoutError):
                raise self._silent(seconds) from error
            raise UnreachableError(
                f"cannot reach the daemon at {self.socket}: {error.strerror or error}",
                CONNECT_HINTS.get(error.errno or 0, ""),
            ) from error
        connection = HTTPConnection("ri")
        connection.sock = stream
        return connection

    def _send(
        self, connection: HTTPConnection, method: str, target: str, body: str | None
    ) -> HTTPResponse:
        from http.client import HTTPException, RemoteDisconnected

        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            connection.request(method, target, body, headers)
            return connection.getresponse()
        except TimeoutError as error:
            raise self._silent(ANSWER_SECONDS) from error
        except (RemoteDisconnected, ConnectionError) as error:
            raise _InterruptedError(
                f"the daemon at {self.socket} closed the connection without an answer",
                "see `journalctl -u ri-monitord`",
            ) from error
        except (OSError, HTTPException) as error:
            raise UnreachableError(
                f"what answers at {self.socket} is not ri-monitord: {error}"
            ) from error

    def _silent(self, seconds: float | None) -> UnreachableError:
        return UnreachableError(
            f"the daemon at {self.socket} did not answer within {seconds or 0:.0f} s",
            "see `journalctl -u ri-monitord`",
        )

    def _decoded(self, data: bytes) -> dict[str, Any]:
        import json

        try:
            answer = json.loads(data)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise UnreachableError(
                f"what answers at {self.socket} is not ri-monitord: no JSON object"
            )
        return answer


class _InterruptedError(UnreachableError):
    """The connection ended in the middle: the daemon's worker may just be starting again."""


def path(*parts: str) -> str:
    """A path of the API whose parts may hold any bytes."""
    from urllib.parse import quote

    return "/v1/" + "/".join(quote(os.fsencode(part), safe="") for part in parts)


def _query(parameters: Parameters) -> str:
    from urllib.parse import urlencode

    given = {
        name: os.fsencode(value) if isinstance(value, str) else value
        for name, value in parameters.items()
        if value is not None and value != ""
    }
    return f"?{urlencode(given)}" if given else ""


def _refusal(status: int, data: bytes) -> CommandError:
    """The error that the daemon answered with."""
    import json

    kind = UsageError if status == MISUNDERSTOOD else CommandError
    try:
        answer = json.loads(data)
        return kind(str(answer["error"]), str(answer.get("hint") or ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return CommandError(f"the daemon answered with HTTP status {status} and no reason")
