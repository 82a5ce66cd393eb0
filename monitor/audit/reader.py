# SPDX-License-Identifier: Apache-2.0
"""Reading the log, beside its writer or without one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monitor.audit import canonical, schema
from monitor.audit.query import Query, select
from monitor.audit.record import Record
from monitor.audit.schema import StoreError
from monitor.audit.verify import Verification, check


@contextmanager
def closing_on_error(database: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        database.close()
        raise


class Reader:
    """Read-only access, beside the writer or without one. Not for more than one thread."""

    def __init__(self, path: Path) -> None:
        """StoreError where there is no log, or none that this version reads."""
        self.path = path
        try:
            self._database = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None
            )
            with closing_on_error(self._database):
                schema.check_format(self._database, path)
        except sqlite3.Error as error:
            raise StoreError(f"cannot open the audit log {path}: {error}") from error

    def query(self, query: Query) -> list[Record]:
        """The records that pass the filters, oldest first."""
        statement, parameters = select(query)
        try:
            rows = self._database.execute(statement, parameters).fetchall()
            if query.newest:
                rows.reverse()
            return [canonical.decode(body, digest) for body, digest in rows]
        except (UnicodeEncodeError, OverflowError):
            return []  # a filter that no record can pass
        except (sqlite3.Error, canonical.BodyError) as error:
            raise StoreError(f"cannot read the audit log {self.path}: {error}") from error

    def get(self, number: int) -> Record | None:
        """The record with this id."""
        found = self.query(Query(after=number - 1, limit=1))
        return found[0] if found and found[0].id == number else None

    def last(self) -> int:
        """The id of the newest record, 0 where there is none."""
        try:
            return schema.last(self._database).id
        except sqlite3.Error as error:
            raise StoreError(f"cannot read the audit log {self.path}: {error}") from error

    def counts(self, session: str, last: int = (1 << 63) - 1) -> dict[str, int]:
        """How many actions of a session got which verdict, in the records up to id `last`."""
        try:
            rows = self._database.execute(
                "SELECT verdict, sum(body ->> ?) FROM records"
                " WHERE actor IN (SELECT id FROM actors WHERE session = ?) AND id <= ?"
                " GROUP BY verdict",
                (f"$[{canonical.FIELDS.index('count')}]", session, last),
            )
            return dict(rows.fetchall())
        except sqlite3.Error as error:
            raise StoreError(f"cannot read the audit log {self.path}: {error}") from error

    def verify(self) -> Verification:
        """Check every record and the head; reads the whole log."""
        return check(self._database, self.path)

    def close(self) -> None:
        self._database.close()
