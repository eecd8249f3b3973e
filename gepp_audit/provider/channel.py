"""The line between a run and its provider process: whole messages over a socket pair, neither end ever blocks.

A frame is the length of its body, four bytes in network order, and the body, a pickled message. Pickle is safe here:
both ends are this program, and nobody else has the socket.

From the run: `Terms` first, then `CallRequest` and `Cancel`. Back: `Ready` first, then one `CallResult` per call.
A call that was cancelled may bring one too: the run has given it up, and drops what comes for it.
"""

from __future__ import annotations

import pickle
import socket
import struct
from dataclasses import dataclass
from typing import Any, Final

from gepp_audit.model import Failure

_LENGTH: Final = struct.Struct("!I")
_READ_SIZE: Final = 256 * 1024
#: asked for in each direction, so that a whole turn's requests fit without waiting for the reader
BUFFER_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """How to reach the provider. Over the socket, since what stands in a command line or environment is seen there."""

    api_key: str
    base_url: str | None
    #: seconds
    call_timeout: float
    concurrency: int

    def __repr__(self) -> str:
        return "<Terms>"


@dataclass(frozen=True, slots=True)
class Ready:
    """The SDK is imported and its client built; or `failure` says why there will be none."""

    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Give up these calls; no results are wanted any more."""

    call_ids: tuple[int, ...]


class Channel:
    """One end of the line. Give it a connected stream socket; it is set non-blocking and owned from then on."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        self._socket = end
        self._incoming = bytearray()
        self._outgoing = bytearray()
        #: the other end is gone: nothing more will come, and what is sent is dropped
        self.ended = False

    def fileno(self) -> int:
        """The descriptor to poll for reading, and for writing where `unsent`."""
        return self._socket.fileno()

    @property
    def unsent(self) -> bool:
        """Something waits until the other end has read."""
        return bool(self._outgoing)

    def send(self, message: Any) -> None:
        """Hand over one message; what does not fit now leaves with `flush`."""
        body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        self._outgoing += _LENGTH.pack(len(body))
        self._outgoing += body
        self.flush()

    def flush(self) -> None:
        """Send of what waits as much as fits."""
        while self._outgoing:
            try:
                sent = self._socket.send(self._outgoing)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # what the other end still sent can be read all the same
                self._outgoing.clear()
                return
            del self._outgoing[:sent]

    def receive(self) -> list[Any]:
        """All messages that have arrived, without waiting; sets `ended` when the other end is gone."""
        while not self.ended:
            try:
                chunk = self._socket.recv(_READ_SIZE)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                chunk = b""
            self.ended = not chunk
            self._incoming += chunk
            if len(chunk) < _READ_SIZE:
                break
        return self._messages()

    def _messages(self) -> list[Any]:
        messages, start = [], 0
        while len(self._incoming) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._incoming, start)
            end = start + _LENGTH.size + length
            if len(self._incoming) < end:
                break
            with memoryview(self._incoming) as view:
                messages.append(pickle.loads(view[start + _LENGTH.size : end]))  # noqa: S301 - see the module
            start = end
        del self._incoming[:start]
        return messages

    def close(self) -> None:
        """Close this end; the other one sees it."""
        self.ended = True
        self._socket.close()
