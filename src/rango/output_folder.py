"""A folder that a command writes: one process at a time, and nothing outside of it.

    lock ──▶ is it ours, and how far is it? ──▶ write files ──▶ unlock

A folder may come from somebody else, with links in it that point anywhere. What stands in it is never written through
such a link.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rango.errors import InputError
from rango.files import UNFINISHED, holds_files, naming_file, place_refused

LOCK = ".lock"


@contextlib.contextmanager
def only_writer(folder: Path, lock: Path | None = None) -> Iterator[None]:
    """Let no other process of Rango write a folder during the block.

    The system frees the lock when this process ends, however it ends. A file that a killed process leaves behind
    therefore locks nothing.

    Args:
        folder: what is written; made where it does not exist, and removed again where it is still empty at the end.
        lock: the file of the lock, for a folder that is replaced as a whole; FOLDER/.lock when absent.

    Raises:
        InputError: another process writes the folder; the message says which one.
    """
    from filelock import FileLock, Timeout

    file = folder / LOCK if lock is None else lock
    with place_refused(file.parent):
        made = [place for place in (file.parent, *file.parent.parents) if not place.exists()]
        file.parent.mkdir(parents=True, exist_ok=True)
        holder = FileLock(file)
        try:
            holder.acquire(timeout=0)
        except Timeout:
            owner = file.read_text(encoding="utf-8", errors="replace").strip()[:200] or "another process"
            raise InputError(
                f"--out {folder} is being written by {owner}; wait until it has ended, or give another --out"
            ) from None
    try:
        begun = time.strftime("%Y-%m-%d %H:%M:%S")
        with naming_file(file):
            file.write_text(f"process {os.getpid()} on {socket.gethostname()}, begun {begun}\n", encoding="utf-8")
        yield
    finally:
        # Removed while it is held: who has opened the file by now sees that it has no name any more, and tries again.
        file.unlink(missing_ok=True)
        holder.release()
        for place in made:  # the innermost first
            with contextlib.suppress(OSError):
                place.rmdir()


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder` that gets its name when the block ends without an error: whole or not at all.

    What killed processes left of earlier attempts is removed.

    Raises:
        InputError: `folder` holds files already, or another process writes it.
    """
    place = folder.resolve()
    with only_writer(folder, lock=place.parent / f".{place.name}{LOCK}"):
        if holds_files(place) or place.is_file():
            raise InputError(f"--out {folder} exists already; give a folder that does not exist yet")
        for leftover in place.parent.glob(f".{glob.escape(place.name)}.*{UNFINISHED}"):
            shutil.rmtree(leftover, ignore_errors=True)
        work = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}.", suffix=UNFINISHED))
        try:
            with naming_file(folder):
                yield work
                # The files are on the disk, and not only in the system's memory, before the name says that they are.
                for path in (*(path for path in work.rglob("*") if path.is_file()), work):
                    handle = os.open(path, os.O_RDONLY)
                    os.fsync(handle)
                    os.close(handle)
                # mkdtemp gives 0700. The mask can only be read by setting another.
                mask = os.umask(0)
                os.umask(mask)
                work.chmod(0o777 & ~mask)
                if place.is_dir():
                    place.rmdir()  # it was empty
                work.rename(place)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def check_links(folder: Path, *names: str) -> None:
    """Raise InputError where a link in a folder leads out of it: writing would change what the link points to.

    Args:
        folder: what is written; it may itself be reached by a link.
        names: the files and folders in it that are written, where these are not all.
    """
    inside = folder.resolve()
    for name in names or (".",):
        walk = os.walk(folder / name)
        below = (Path(parent, entry) for parent, folders, files in walk for entry in (*folders, *files))
        for place in (folder / name, *below):
            target = place.resolve()
            if not target.is_relative_to(inside):
                raise InputError(
                    f"{place} leads out of {folder}, to {target}, and Rango does not write through it; put a copy "
                    "there instead of the link, or give another folder"
                )
