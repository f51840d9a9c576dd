"""An append-only file, readable by its owner alone, rotated by size and number."""

from __future__ import annotations

import contextlib
import os
import stat


class RotatingFile:
    """Lines go to `path`; when it is full it becomes ``path.1``, that one ``path.2``, and so on.

    :param max_bytes: size at which a file is full; 0 for no limit
    :param max_files: files in all, the current one included
    """

    def __init__(self, path: str, *, max_bytes: int, max_files: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._max_files = max(1, max_files)
        self._descriptor = -1
        self._rest = b""
        self._torn = False
        self._identity: tuple[int, int] | None = None
        self._size = 0

    def open(self) -> None:
        """Open the file, which `write` does when it has to.

        :raises OSError: it cannot be
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(self.path, flags | getattr(os, "O_BINARY", 0), 0o600)
        try:
            status = os.fstat(descriptor)
            regular = stat.S_ISREG(status.st_mode)
            if regular and hasattr(os, "fchmod") and stat.S_IMODE(status.st_mode) != 0o600:
                os.fchmod(descriptor, 0o600)
        except OSError:
            os.close(descriptor)
            raise
        identity = (status.st_dev, status.st_ino)
        emptied = regular and status.st_size < self._size
        if self._rest and (identity != self._identity or emptied):
            self._rest = b""  # the line was begun in another file: write it whole into this one
        self._identity = identity
        self._size = status.st_size if regular else 0
        self._torn = self._size > 0 and not self._rest and not self._ends_with_a_line()
        self._descriptor = descriptor

    def write(self, line: bytes) -> None:
        """Append one line. After an error, call it again with the same line.

        :raises OSError: the line is not (or only in part) written
        """
        if self._descriptor < 0:
            self.open()
        if not self._rest:
            if self._size and 0 < self._max_bytes < self._size + len(line):
                self._rotate()
            # Whoever was ended on a full disk left half a line, which must not spoil this one.
            self._rest = b"\n" + line if self._torn else line
            self._torn = False
        try:
            while self._rest:
                written = os.write(self._descriptor, self._rest)
                self._rest = self._rest[written:]
                self._size += written
        except OSError:
            self.close()  # the path may lead to another, better file by the next time
            raise

    def follow(self) -> None:
        """Leave a file that was moved or removed; `write` makes another at `path`."""
        try:
            status = os.stat(self.path)
            moved = (status.st_dev, status.st_ino) != self._identity
        except OSError:
            moved = True
        if moved:
            self.close()

    def close(self) -> None:
        """Close the file; `write` opens it again."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _ends_with_a_line(self) -> bool:
        try:
            with open(self.path, "rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read() == b"\n"
        except OSError:  # it may be written only
            return True

    def _rotate(self) -> None:
        self.close()
        # Where files cannot be renamed, a large capture is better than none.
        with contextlib.suppress(OSError):
            os.remove(self._numbered(self._max_files - 1))
        for number in range(self._max_files - 2, -1, -1):
            with contextlib.suppress(OSError):
                os.replace(self._numbered(number), self._numbered(number + 1))
        self.open()

    def _numbered(self, number: int) -> str:
        return f"{self.path}.{number}" if number else self.path
