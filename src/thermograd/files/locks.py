"""Who is at work in a folder: a lock that the system lets go when its process ends, however it ends.

The lock file is made once and never replaced or removed while it is held, so all processes lock the same file. Its
holder writes into it who it is, for the others to say.
"""

import errno
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from thermograd.errors import InputError

LOCK = ".lock"
"""Name of the lock file in the folder that is held."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)
_PATIENCE = 1.0
"""Seconds that a holder may take to write who it is."""


@contextmanager
def hold(folder: Path, verb: str, name: str = "run") -> Iterator[None]:
    """Hold a folder for this process alone; made where it is missing, and removed again if nothing came of it.

    File systems and platforms without locks are not held.

    Args:
        folder: what is held.
        verb: what it is held for, e.g. "train".
        name: of the setting that gave the folder, for messages.

    Raises:
        InputError: another process holds it; the message says which. Or it cannot be made or written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"`{name}` {folder} is a file, not a folder.")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        before = set() if made else {path.name for path in folder.iterdir()}
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(folder, name)
    except OSError as error:
        raise InputError(f"`{name}` {folder} cannot be written: {error.strerror}.") from None
    try:
        _write(descriptor, json.dumps({**this_process(), "verb": verb, "since": time.time()}))
        yield
    finally:
        _write(descriptor, "")
        with suppress(OSError):
            if LOCK not in before and {path.name for path in folder.iterdir()} == {LOCK, *before}:
                # Nothing came of it, e.g. since the input was bad; who waits for the lock sees that it is gone.
                (folder / LOCK).unlink()
                for path in made:
                    path.rmdir()
        os.close(descriptor)


def _lock(folder: Path, name: str) -> int:
    """Return the descriptor of the locked file."""
    try:
        import fcntl
    except ImportError:  # Windows
        return os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    while True:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise InputError(f"`{name}` {folder} is in use: {_holder(folder)}.") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK)):
                return descriptor
        except FileNotFoundError:
            folder.mkdir(parents=True, exist_ok=True)
        os.close(descriptor)  # its holder found nothing to write, and removed it: lock the new one


def _write(descriptor: int, text: str) -> None:
    with suppress(OSError):  # on a full disk the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _holder(folder: Path) -> str:
    """Return who holds a folder, as the lock file says."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        try:
            facts = json.loads((folder / LOCK).read_text())
            if is_running(facts) is not False:
                since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts["since"]))
                return (
                    f"`{facts['verb']}` of process {facts['pid']} on {facts['host']} holds it since {since}"
                )
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            pass
        time.sleep(0.02)  # it was locked this moment
    return "another process holds it"


# --- processes ---


def this_process() -> dict[str, Any]:
    """Return what tells this process from all others: host, pid, and when it was born."""
    return {"host": host_name(), "pid": os.getpid(), "born": birth(os.getpid())}


def host_name() -> str:
    """Return a name for this machine that differs between containers that count processes apart."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{socket.gethostname()} {space}".strip()


def birth(pid: int) -> str | None:
    """Return when a process began, in ticks since the machine did; None if it is gone, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def is_running(facts: Mapping[str, Any]) -> bool | None:
    """Return whether the process that wrote `this_process` runs; None where that cannot be seen from here."""
    pid = facts.get("pid")
    if facts.get("host") != host_name() or not isinstance(pid, int) or pid < 1:
        return None
    if Path("/proc/self/stat").exists():
        born = birth(pid)  # a number can be given to another process
        return born is not None and born == facts.get("born", born)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
