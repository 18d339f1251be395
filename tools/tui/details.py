"""Fetches what a place shows beside the snapshot: keys, a history, a log. Blocking, in a thread of its own."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from tools.admin.etcd_client import Refused
from tools.admin.log_file import LogFile
from tools.tui.model import Details
from tools.tui.place import Place, View
from tools.tui.views.log import LINES_KEPT

if TYPE_CHECKING:
    from tools.admin.attachment import Attachment

LOADED_VIEWS = (View.KEYS, View.HISTORY, View.LOG)


class DetailsLoader:
    """Of one place after the other; a log goes on where it was."""

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._log: LogFile | None = None
        self._lines: deque[tuple[int, str]] = deque(maxlen=LINES_KEPT)

    def load(self, place: Place, log_path: str) -> Details:
        """What this place shows now. log_path: of the process that it is about; "" if it is not known."""
        try:
            match place.view:
                case View.KEYS:
                    return Details(keys=self._attachment.table(place.subject).page(place.key))
                case View.HISTORY:
                    return Details(history=self._attachment.table(place.subject).history(place.key))
                case View.LOG:
                    return Details(lines=self._read_log(log_path))
        except Refused as error:
            return Details(problem=str(error))
        except OSError as error:
            return Details(problem=f"{log_path}: can't be read: {error.strerror}")
        return Details()

    def _read_log(self, path: str) -> list[tuple[int, str]]:
        if not path:
            return []
        if self._log is None or str(self._log.path) != path:
            self._log = LogFile(Path(path))
            self._lines.clear()
            new = self._log.last_lines(LINES_KEPT)
        else:
            new = self._log.new_lines()
        first = self._lines[-1][0] + 1 if self._lines else 1
        self._lines.extend((first + offset, line.decode(errors="replace")) for offset, line in enumerate(new))
        return list(self._lines)
