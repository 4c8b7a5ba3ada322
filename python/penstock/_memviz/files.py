"""Writes files whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Mapping


def write(contents: Mapping[str, str]) -> None:
    """Write each text to its path, in UTF-8.

    All are written under other names first, in the same folders, and take their places when they are
    complete. Where one cannot be written, none has taken its place, and what was begun is removed. A link
    stays a link: what it leads to is replaced.
    """
    targets = {os.path.realpath(path): text for path, text in contents.items()}
    begun: list[str] = []
    try:
        for target, text in targets.items():
            _refuse_what_open_would(target)
            draft = f"{target}.{secrets.token_hex(4)}.tmp"
            begun.append(draft)
            try:
                with open(draft, "x", encoding="utf-8") as file:  # noqa: PTH123
                    file.write(text)
            except OSError as error:
                error.filename = target  # what the caller asked for
                raise
        for target, draft in zip(targets, begun.copy(), strict=True):
            os.replace(draft, target)  # noqa: PTH105
            begun.remove(draft)
    finally:
        for draft in begun:
            try:
                os.unlink(draft)  # noqa: PTH108
            except OSError:
                pass  # it was not even made; what went wrong is on its way already


def _refuse_what_open_would(target: str) -> None:
    """Raise for what `open` would not write to: a new file would replace it, or fail to after another one."""
    if os.path.isdir(target):  # noqa: PTH112
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
    if os.path.exists(target) and not os.access(target, os.W_OK):  # noqa: PTH110
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), target)
