"""Where the agent can be asked: a Unix socket of mode 0600 in a folder, or a port of loopback with a token.

A socket is named after its life, PID@START_TICKS.sock, so that two containers which share a folder do not meet. It
bears that name only once it listens: whoever finds one that refuses a connection knows that its process is gone, and
removes it. A host may close every descriptor it finds (as daemons do) and open its own under the same numbers, so each
use first looks whether the descriptor still is what was opened.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import struct
import time
from typing import Any, Optional, Tuple

from watchdog_agent import identity
from watchdog_agent.agent_wire import PORTS
from watchdog_agent.native import original

MAX_PATH_BYTES = 107  # sockaddr_un of unix(7), with its ending zero
BACKLOG = 8
UNFINISHED_S = 60.0  # a socket that never got its name belongs to a process that was killed between the two
_NAME = re.compile(r"(\d{1,10})@(\d{1,20})\.sock(\.new)?", re.ASCII)


class Door:
    """A listening socket. path: None for a port. token: what an HTTP question must bring; None on a Unix socket."""

    def __init__(self, listener: socket.socket, *, path: Optional[str] = None, token: Optional[bytes] = None) -> None:
        self._listener = listener
        self._path = path
        self.token = token
        self.address = path or "{}:{}".format(*listener.getsockname())
        self._opened = inode_of(os.fstat(listener.fileno()))
        self._named = None if path is None else inode_of(os.lstat(path))

    def fileno(self) -> int:
        return self._listener.fileno()

    def stands(self) -> bool:
        """Whether it can still be found: the descriptor is ours, and so is what bears the name."""
        return self._is_ours() and (self._path is None or self._bears_the_name())

    def accept(self) -> Optional[socket.socket]:
        """The next caller who may ask; None when there is none any more, or when it is another user."""
        try:
            # accept() makes a socket of the class that is in `socket` now, whoever put it there.
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001
            caller: socket.socket = _socket_class()(fileno=fd)
        except (BlockingIOError, ConnectionError):
            return None
        if self.token is None and _user_of(caller) not in (os.geteuid(), 0):
            caller.close()
            return None
        return caller

    def knock(self) -> None:
        """Wake the thread that polls it, as any caller does. A door that no caller finds any more is shut for that."""
        with contextlib.suppress(OSError), _new_socket(self._listener.family) as caller:
            caller.settimeout(0)
            try:
                caller.connect(self._path or self._listener.getsockname())
            except BlockingIOError:
                pass  # others have called: it is awake
            except OSError:
                if self._is_ours():
                    self._listener.shutdown(socket.SHUT_RDWR)

    def close(self, *, remove: bool) -> None:
        """Let go of the descriptor, unless it is another's by now. remove: of the name too."""
        with contextlib.suppress(OSError):
            if remove and self._path is not None and self._bears_the_name():
                os.unlink(self._path)  # noqa: PTH108 - as above
        with contextlib.suppress(OSError):
            if self._is_ours():
                self._listener.close()
            else:
                self._listener.detach()

    def _is_ours(self) -> bool:
        try:
            return inode_of(os.fstat(self._listener.fileno())) == self._opened
        except OSError:
            return False

    def _bears_the_name(self) -> bool:
        try:
            return inode_of(os.lstat(self._path or "")) == self._named
        except OSError:
            return False


def open_folder(folder: str) -> Door:
    """A socket for this life in that folder, which is made if need be (0700). Raises OSError, ValueError."""
    life = identity.life_key()
    if life is None or not hasattr(socket, "SO_PEERCRED"):
        raise ValueError("only Linux is known here")
    path = os.path.join(folder, f"{life}.sock")  # noqa: PTH118 - as above
    if len(os.fsencode(path)) + 4 > MAX_PATH_BYTES:
        raise ValueError(f"the path is too long, at most {MAX_PATH_BYTES - 4} bytes are allowed: {path}")
    os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103 - as above
    if folder == f"/tmp/inference-watchdog-{os.getuid()}" and not _is_private(folder):  # noqa: S108
        raise ValueError(f"{folder} is not this user's alone")
    _remove_stale(folder)
    listener = _new_socket(socket.AF_UNIX)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path + ".new")  # noqa: PTH108 - left by a try of ours that did not get to its end
    try:
        os.fchmod(listener.fileno(), 0o600)  # Linux gives the file the mode of the socket; the umask is the host's
        listener.bind(path + ".new")
        listener.listen(BACKLOG)
        listener.settimeout(0)
        os.rename(path + ".new", path)  # noqa: PTH104 - as above
        return Door(listener, path=path)
    except BaseException:
        listener.close()
        raise


def open_port(port: int, token: str) -> Door:
    """A port of 127.0.0.1, the first free one of PORTS from the given one on. Raises OSError, ValueError."""
    if len(token.strip()) < 16:
        raise ValueError("the token must have 16 characters or more")
    problem: Optional[OSError] = None
    for number in range(port, min(port + PORTS, 65536)):
        listener = _new_socket(socket.AF_INET)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", number))
            listener.listen(BACKLOG)
            listener.settimeout(0)
            return Door(listener, token=token.strip().encode())  # as a header's value is read, and a daemon's setting
        except OSError as error:
            listener.close()
            problem = error
    raise problem or ValueError(f"{port} is no port")


def _remove_stale(folder: str) -> None:
    """Sockets of this user in the folder whose process is gone; whatever else lies there is not looked at."""
    with os.scandir(folder) as entries:
        found = [entry.name for _, entry in zip(range(4096), entries) if _NAME.fullmatch(entry.name)]
    for name in found:
        with contextlib.suppress(OSError):
            path = os.path.join(folder, name)  # noqa: PTH118 - as above
            about = os.lstat(path)
            if stat.S_ISSOCK(about.st_mode) and about.st_uid == os.geteuid() and _is_stale(path, name, about):
                os.unlink(path)  # noqa: PTH108 - as above


def _is_stale(path: str, name: str, about: os.stat_result) -> bool:
    match = _NAME.fullmatch(name)
    if match is None or identity.start_ticks(f"/proc/{match[1]}/stat") == int(match[2]):
        return False
    if match[3]:
        return time.time() - about.st_mtime > UNFINISHED_S
    with _new_socket(socket.AF_UNIX) as caller:
        caller.settimeout(0)
        try:
            caller.connect(path)  # in another container it may be alive all the same
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _is_private(folder: str) -> bool:
    about = os.lstat(folder)
    return stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o077


def _new_socket(family: int) -> socket.socket:
    made: socket.socket = _socket_class()(family, socket.SOCK_STREAM)
    return made


def _socket_class() -> Any:
    """Python's own: that of gevent or eventlet waits with an event loop, and would make one for our thread."""
    return original(socket, "socket")


def _user_of(caller: socket.socket) -> int:
    _pid, user, _group = struct.unpack("3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(user)


def inode_of(about: os.stat_result) -> Tuple[int, int]:
    """By which a descriptor is told from another under the same number."""
    return about.st_dev, about.st_ino
