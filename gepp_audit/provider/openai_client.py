"""The door to the provider: `OpenAIClient`, synchronous and without a thread; the calls are made by `worker`, a process
of its own.

The contract: every call that is submitted brings exactly one `CallResult` out of `wait`, or its id out of `abandon`,
whatever happens: a server that hangs, a body that drips, an SDK that cannot be imported, a process that dies or
freezes. How it is kept: `_open` holds the calls that are still owed; whoever removes an id from it accounts for it.

A result is read in this order: `failure` set → it failed (also before it was sent: no connection, no SDK); else `text`
set → it was answered; else it was never sent, because its `send_before` had passed. `ErrorCode.CRASHED` means that the
process died with the call in flight: nobody knows whether it was paid, or whether it is what killed the process.

Importing the SDK takes longer than all else at start: `prepare` lets it happen beside the caller's first queries.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import time
from typing import Final

from gepp_audit.model import CallRequest, CallResult, ErrorCode, Failure, FailureKind
from gepp_audit.provider.channel import Cancel, Channel, Ready, Terms
from gepp_audit.provider.clock import clock
from gepp_audit.provider.models import DEFAULT_MODEL

__all__ = ["DEFAULT_MODEL", "OpenAIClient", "clock"]

#: seconds beyond the call timeout after which the process is taken for frozen, and seconds it then gets to prove it is
#: not: a machine that slept wakes both of us, but not at the same moment
_OVERDUE_AFTER: Final = 10.0
_OVERDUE_GRACE: Final = 5.0
#: variables that the process has no use for and a core dump of it should not hold
_WITHHELD: Final = ("DATABASE_URL", "OPENAI_API_KEY", "OPENAI_API_KEY_FILE", "PGPASSWORD", "GEPP_AUDIT_JWT_SECRET")

_CANNOT_START: Final = Failure(
    kind=FailureKind.RETRY,
    code=ErrorCode.CONNECTION,
    message="The process that talks with the provider could not be started: too many processes, or no memory is left.",
)
_DIES_AT_START: Final = Failure(
    kind=FailureKind.BLOCK,
    code=ErrorCode.REQUEST_REJECTED,
    message="The process that talks with the provider died while it started. Try `python -m gepp_audit.provider` with "
    "the interpreter of gepp-audit to see why, and install gepp-audit again "
    "(pip install --force-reinstall gepp-audit).",
)
_DIED: Final = Failure(
    kind=FailureKind.RETRY,
    code=ErrorCode.CRASHED,
    message="The process that talks with the provider died while the call was under way.",
)
_FROZEN: Final = Failure(
    kind=FailureKind.RETRY,
    code=ErrorCode.TIMEOUT,
    message="The process that talks with the provider did not answer in time.",
)
_CLOSED: Final = Failure(
    kind=FailureKind.RETRY,
    code=ErrorCode.CONNECTION,
    message="The client was closed before the answer arrived.",
)


class OpenAIClient:
    """Calls to one provider with one key. `submit`, `wait` and `abandon` belong to one thread, `wake` to any."""

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str | None = None,
        call_timeout: float = 60.0,
        concurrency: int = 32,
        model: str = DEFAULT_MODEL,
    ) -> None:
        """Remember the settings; no process is started before `prepare` or the first `submit`.

        `base_url` None is OpenAI itself. `call_timeout`: seconds for a whole call, from its sending to the last byte of
        its answer. `concurrency`: connections at most. `model` is for whoever builds requests from this client.
        """
        if call_timeout <= 0 or concurrency < 1:
            raise ValueError("call_timeout must be above 0 and concurrency at least 1")
        self.model = model
        self._terms = Terms(api_key=api_key, base_url=base_url, call_timeout=call_timeout, concurrency=concurrency)
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        #: the process has said that it can call
        self._ready = False
        #: the calls that are owed, in the order of their submission, with the clock's time when each is overdue
        self._open: dict[int, float] = {}
        self._finished: list[CallResult] = []
        #: why no call can be made any more
        self._broken: Failure | None = None
        self._closed = False
        #: since when the process is silent about an overdue call
        self._silent_since: float | None = None
        self._wake_reader, self._wake_writer = os.pipe()
        for end in (self._wake_reader, self._wake_writer):
            os.set_blocking(end, False)

    def __repr__(self) -> str:
        return f"<OpenAIClient, {self.in_flight} in flight>"

    @property
    def in_flight(self) -> int:
        """Calls that were submitted and neither returned by `wait` nor given up by `abandon`."""
        return len(self._open) + len(self._finished)

    def prepare(self) -> None:
        """Start the process, which imports the SDK and builds the client, and return at once. Idempotent."""
        if self._process is None and self._broken is None and not self._closed:
            self._start()

    def ready(self, timeout: float) -> bool:
        """Wait until what `prepare` began is done, well or not; False: `timeout` seconds were not enough."""
        self.prepare()
        deadline = time.monotonic() + timeout
        while not self._ready and self._channel is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._pump(left)
        return True

    def submit(self, request: CallRequest) -> None:
        """Take over one call and return at once; its result comes out of `wait`.

        Raises ValueError for a call id that is in flight already, RuntimeError after `close`.
        """
        if self._closed:
            raise RuntimeError("the client is closed")
        if request.call_id in self._open:
            raise ValueError(f"call {request.call_id} is in flight already")
        self.prepare()
        self._open[request.call_id] = clock() + self._terms.call_timeout + _OVERDUE_AFTER
        if self._broken is not None or self._channel is None:
            self._finish(CallResult(call_id=request.call_id, sent=False, failure=self._broken or _CANNOT_START))
        else:
            self._channel.send(request)

    def wait(self, timeout: float) -> list[CallResult]:
        """Block until a call has finished, `wake` was called or `timeout` seconds are over; return all that finished.

        The list is empty after a wake-up or a timeout without results. Each result is returned once.
        """
        deadline = time.monotonic() + max(timeout, 0.0)
        woken = self._pump(0.0)
        while not self._finished and not woken:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            woken = self._pump(left)
        results, self._finished = self._finished, []
        return results

    def wake(self) -> None:
        """Make the running or the next `wait` return at once. For other threads and for signal handlers."""
        if not self._closed:
            with contextlib.suppress(BlockingIOError):  # the pipe is full, so it wakes already
                os.write(self._wake_writer, b"w")

    def abandon(self) -> list[int]:
        """Give up all calls that have not finished and return their ids; they may have been paid for.

        What has finished already still comes out of `wait`; nothing else will.
        """
        self._pump(0.0)
        ids = sorted(self._open)
        self._open.clear()
        if ids and self._channel is not None:
            self._channel.send(Cancel(tuple(ids)))
        return ids

    def close(self) -> None:
        """End the process and its connections. Calls still in flight finish as failures, for `wait` to return."""
        if self._closed:
            return
        self._pump(0.0)
        self._closed = True
        self._end()
        self._finish_all(_CLOSED)
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    # ---- the process -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "gepp_audit.provider", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env=_environment(),
                    start_new_session=True,  # a Ctrl-C is for the run, which decides what becomes of paid calls
                )
            except (OSError, ValueError):
                ours.close()
                return
        self._ready = False
        self._channel = Channel(ours)
        self._channel.send(self._terms)

    def _end(self) -> None:
        """End the process; it holds nothing that is worth waiting for."""
        process, self._process = self._process, None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if process is not None:
            process.kill()
            process.wait()

    def _pump(self, timeout: float) -> bool:
        """Move what can be moved, after waiting up to `timeout` seconds for something; True: `wake` was called."""
        if self._closed:
            return True
        channel = self._channel
        reading: list[int | Channel] = [self._wake_reader] if channel is None else [self._wake_reader, channel]
        writing = [channel] if channel is not None and channel.unsent else []
        if self._open:  # to see in time that the process is frozen
            timeout = min(timeout, 1.0)
        ready = _select(reading, writing, timeout)
        if channel is not None:
            channel.flush()
            if channel in ready:
                self._take(channel)
            self._look_for_silence(heard=channel in ready)
        return self._wake_reader in ready and self._was_woken()

    def _was_woken(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            return bool(os.read(self._wake_reader, 4096))
        return False

    def _take(self, channel: Channel) -> None:
        for message in channel.receive():
            if isinstance(message, CallResult):
                self._finish(message)
            elif isinstance(message, Ready):
                self._ready = message.failure is None
                if message.failure is not None:
                    self._break(message.failure)
        if channel.ended and self._channel is channel:
            self._end()
            if self._ready:
                self._finish_all(_DIED)
            elif self._broken is None:
                self._break(_DIES_AT_START)

    def _look_for_silence(self, *, heard: bool) -> None:
        """Kill a process that says nothing about a call long after its time: it is frozen."""
        first_overdue = next(iter(self._open.values()), None)
        if heard or first_overdue is None or clock() < first_overdue:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = time.monotonic()
        elif time.monotonic() - self._silent_since > _OVERDUE_GRACE:
            self._silent_since = None
            self._end()
            self._finish_all(_FROZEN)

    # ---- accounting ------------------------------------------------------------------------------------------------

    def _finish(self, result: CallResult) -> None:
        """Keep `result` for `wait`, if its call is still owed one."""
        if self._open.pop(result.call_id, None) is not None:
            self._finished.append(result)

    def _finish_all(self, failure: Failure) -> None:
        """Finish every call that is owed a result with `failure`."""
        sent = failure.kind is not FailureKind.BLOCK
        for call_id in list(self._open):
            self._finish(CallResult(call_id=call_id, sent=sent, failure=failure))

    def _break(self, failure: Failure) -> None:
        """No call can be made: finish what is owed, and every later one, with `failure`."""
        self._broken = failure
        self._end()
        self._finish_all(failure)


def _select(reading: list[int | Channel], writing: list[Channel], timeout: float) -> set[int | Channel]:
    """What can be read within `timeout` seconds. A select cannot watch descriptors above 1023, so it is a poll."""
    poll = select.poll()
    by_number: dict[int, int | Channel] = {}
    for end in reading:
        number = end if isinstance(end, int) else end.fileno()
        by_number[number] = end
        poll.register(number, select.POLLIN | (select.POLLOUT if end in writing else 0))
    events = poll.poll(max(timeout, 0.0) * 1000)
    return {by_number[number] for number, event in events if event & ~select.POLLOUT}


def _environment() -> dict[str, str]:
    """The caller's environment and module path, less what the process has no use for."""
    kept = {name: value for name, value in os.environ.items() if name not in _WITHHELD}
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    # looking for pydantic's plugins reads the metadata of every installed package
    return kept | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PYDANTIC_DISABLE_PLUGINS": "__all__"}
