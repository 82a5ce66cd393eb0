# SPDX-License-Identifier: Apache-2.0
"""Reading the audit log for the API: in a thread of its own, so that no query holds up records."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from monitor.audit.export import json_line
from monitor.audit.query import Query
from monitor.audit.record import Record, to_dict
from monitor.audit.store import Reader
from monitor.audit.verify import Verification
from monitor.policy.action import Verb

T = TypeVar("T")


class Log:
    """All methods raise StoreError where the log cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ri-log")
        self._reader: Reader | None = None

    async def page(self, query: Query) -> tuple[str, int]:
        """The records as JSON objects separated by commas, and the id of the last (0: none)."""

        def read(reader: Reader) -> tuple[str, int]:
            records = reader.query(query)
            text = ",".join(json.dumps(to_dict(record)) for record in records)
            return text, records[-1].id if records else 0

        return await self._run(read)

    async def lines(self, query: Query) -> tuple[bytes, int]:
        """The records one a line, and the id of the last (0: none)."""

        def read(reader: Reader) -> tuple[bytes, int]:
            records = reader.query(query)
            text = "".join(map(json_line, records))
            return text.encode("ascii"), records[-1].id if records else 0

        return await self._run(read)

    async def get(self, number: int) -> Record | None:
        return await self._run(lambda reader: reader.get(number))

    async def counts(self, session: str, last: int) -> dict[str, int]:
        """How many actions of a session got which verdict, in the records up to `last`."""
        return await self._run(lambda reader: reader.counts(session, last))

    async def endings(self, sessions: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The details of each session's session.end record, as far as there is one."""

        def read(reader: Reader) -> dict[str, dict[str, Any]]:
            found = {}
            for each in sessions:
                query = Query(session=each, verb=Verb.SESSION_END, limit=1, newest=True)
                for record in reader.query(query):
                    found[each] = record.details
            return found

        return await self._run(read)

    async def verify(self) -> Verification:
        """Check the whole log, beside the thread that answers everybody else."""

        def check() -> Verification:
            reader = Reader(self.path)
            try:
                return reader.verify()
            finally:
                reader.close()

        return await asyncio.to_thread(check)

    async def _run(self, action: Callable[[Reader], T]) -> T:
        def act() -> T:
            # Opened in the thread that uses it, as SQLite asks.
            if self._reader is None:
                self._reader = Reader(self.path)
            return action(self._reader)

        return await asyncio.get_running_loop().run_in_executor(self._thread, act)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
