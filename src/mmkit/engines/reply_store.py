"""A directory of stored replies that several processes may write at once and that kill -9 cannot damage."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmkit.errors import DataError, LimitError, UnavailableError

FILE_NAME = "replies.sqlite3"

_BUSY_TIMEOUT_S = 60.0
_CHECKPOINT_PAGES = 8000  # of 4 KiB: each checkpoint waits for the disk, so they are few


class ReplyStore:
    """Byte strings by 32-byte key, in one SQLite file in write-ahead mode.

    Each `put` is a transaction of its own and is there after kill -9 of this process; a crash of the whole machine may
    lose the last few, never more. The directory must be on a local file system, where SQLite's locks work.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._path = Path(directory) / FILE_NAME
        with self._explained():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Used by one thread at a time, though not always by the one that opened it.
            self._connection = sqlite3.connect(
                self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._enter_wal_mode()
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            self._connection.execute("CREATE TABLE IF NOT EXISTS replies (key BLOB PRIMARY KEY, value BLOB NOT NULL)")

    def get(self, key: bytes) -> bytes | None:
        """The stored value, or None."""
        with self._explained():
            row = self._connection.execute("SELECT value FROM replies WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def put(self, key: bytes, value: bytes) -> None:
        """Store a value; the first one of a key stays."""
        with self._explained():
            self._connection.execute("INSERT OR IGNORE INTO replies VALUES (?, ?)", (key, value))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _enter_wal_mode(self) -> None:
        # Switching the mode takes a lock that SQLite does not wait for; processes that start together meet here.
        deadline = time.monotonic() + _BUSY_TIMEOUT_S
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise LimitError(f"cache {self._path}: the disk is full; what is stored is kept") from None
            raise UnavailableError(f"cache {self._path} cannot be used: {error}") from None
        except sqlite3.DatabaseError as error:
            raise DataError(f"cache {self._path}: {error}; delete it to start afresh") from None
        except OSError as error:
            raise UnavailableError(f"cache directory {self._path.parent} cannot be made: {error}") from None
