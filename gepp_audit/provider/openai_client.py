"""The door to the provider: `OpenAIClient`, synchronous outside, one background thread with an event loop inside.

The contract: every call that is submitted brings exactly one `CallResult` out of `wait`, or its id out of `abandon`,
whatever happens: a server that hangs, a body that drips, an SDK that cannot be imported, a thread that dies. How it is
kept: `_open` holds the calls that are still owed; whoever removes an id from it, under the lock, is the one who
accounts for it. `_finish` removes and queues the result, `abandon` removes and returns the ids, and the thread's last
act is to finish what is left.

A result is read in this order: `failure` set → it failed (also before it was sent: no connection, no SDK); else `text`
set → it was answered; else it was never sent, because its `send_before` had passed.

Importing the SDK takes longer than everything else at start: `prepare` does it beside the caller's first queries.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Final

from gepp_audit.model import CallRequest, CallResult, ErrorCode, Failure, FailureKind
from gepp_audit.provider.clock import clock
from gepp_audit.provider.models import DEFAULT_MODEL, is_openai

if TYPE_CHECKING:
    from gepp_audit.provider.exchange import Exchange

__all__ = ["DEFAULT_MODEL", "OpenAIClient", "clock"]

#: seconds that `close` waits for the thread; it is a daemon, so nothing depends on its end
_JOIN_TIMEOUT: Final = 5.0

_NO_KEY: Final = Failure(
    kind=FailureKind.BLOCK,
    code=ErrorCode.KEY_REJECTED,
    message="There is no usable API key: OPENAI_API_KEY is empty or holds characters that no key has. Set a valid one.",
)
_NO_SDK: Final = Failure(
    kind=FailureKind.BLOCK,
    code=ErrorCode.REQUEST_REJECTED,
    message="The openai package cannot be imported. Install gepp-audit again with its dependencies "
    "(pip install --force-reinstall gepp-audit).",
)
_BAD_URL: Final = Failure(
    kind=FailureKind.BLOCK,
    code=ErrorCode.REQUEST_REJECTED,
    message="OPENAI_BASE_URL is no http or https URL. Correct it, or remove it to call OpenAI itself.",
)
_NO_CLIENT: Final = Failure(
    kind=FailureKind.BLOCK,
    code=ErrorCode.REQUEST_REJECTED,
    message="The OpenAI client could not be set up. Check OPENAI_BASE_URL, the proxy variables (HTTPS_PROXY) and "
    "SSL_CERT_FILE.",
)
_THREAD_GONE: Final = Failure(
    kind=FailureKind.RETRY,
    code=ErrorCode.CONNECTION,
    message="The client was closed, or its background thread ended, before the answer arrived.",
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
        """Remember the settings; nothing is imported and no thread started before `prepare` or the first `submit`.

        `base_url` None is OpenAI itself. `call_timeout`: seconds for a whole call, from its sending to the last byte of
        its answer. `concurrency`: connections at most. `model` is for whoever builds requests from this client.
        """
        if call_timeout <= 0 or concurrency < 1:
            raise ValueError("call_timeout must be above 0 and concurrency at least 1")
        self.model = model
        self._api_key = api_key
        self._base_url = base_url
        self._call_timeout = call_timeout
        self._concurrency = concurrency
        self._lock = threading.Lock()
        # All below is guarded by the lock; `_finished` needs none.
        self._open: set[int] = set()
        self._undelivered = 0  # finished, but not yet returned by `wait`
        self._backlog: list[CallRequest] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._broken: Failure | None = None
        self._closed = False
        #: the SDK is imported and its client built, or that has failed
        self._settled = threading.Event()
        #: results; None is a wake-up. SimpleQueue.put may be called from a signal handler.
        self._finished: queue.SimpleQueue[CallResult | None] = queue.SimpleQueue()
        # Used by the background thread alone.
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._stop: asyncio.Event | None = None

    def __repr__(self) -> str:
        return f"<OpenAIClient, {self.in_flight} in flight>"

    @property
    def in_flight(self) -> int:
        """Calls that were submitted and neither returned by `wait` nor given up by `abandon`."""
        with self._lock:
            return len(self._open) + self._undelivered

    def prepare(self) -> None:
        """Start the background thread, which imports the SDK and builds the client, and return at once. Idempotent."""
        with self._lock:
            self._start_thread()

    def ready(self, timeout: float) -> bool:
        """Wait until what `prepare` began is done, well or not; False: `timeout` seconds were not enough."""
        self.prepare()
        return self._settled.wait(timeout)

    def submit(self, request: CallRequest) -> None:
        """Take over one call and return at once; its result comes out of `wait`.

        Raises ValueError for a call id that is in flight already, RuntimeError after `close`.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed")
            if request.call_id in self._open:
                raise ValueError(f"call {request.call_id} is in flight already")
            self._open.add(request.call_id)
            if self._broken is None:
                self._start_thread()
                if self._loop is None:
                    self._backlog.append(request)
                else:
                    self._loop.call_soon_threadsafe(self._begin, request)
                return
        self._finish(CallResult(call_id=request.call_id, sent=False, failure=self._broken))

    def wait(self, timeout: float) -> list[CallResult]:
        """Block until a call has finished, `wake` was called or `timeout` seconds are over; return all that finished.

        The list is empty after a wake-up or a timeout without results. Each result is returned once.
        """
        results: list[CallResult] = []
        try:
            entry = self._finished.get(timeout=min(max(timeout, 0.0), threading.TIMEOUT_MAX))
            while True:
                if entry is not None:
                    results.append(entry)
                entry = self._finished.get_nowait()
        except queue.Empty:
            pass
        with self._lock:
            self._undelivered -= len(results)
        return results

    def wake(self) -> None:
        """Make the running or the next `wait` return at once. For other threads and for signal handlers."""
        self._finished.put(None)

    def abandon(self) -> list[int]:
        """Give up all calls that have not finished and return their ids; they may have been paid for.

        What has finished already still comes out of `wait`; nothing else will.
        """
        with self._lock:
            ids = sorted(self._open)
            self._open.clear()
            self._backlog.clear()
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._cancel, ids)
        return ids

    def close(self) -> None:
        """End the thread and its connections. Calls still in flight finish as failures, for `wait` to return."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
            if loop is not None and self._stop is not None:
                loop.call_soon_threadsafe(self._stop.set)
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN_TIMEOUT)
        self._finish_all(_THREAD_GONE)

    def _start_thread(self) -> None:
        """Call under the lock."""
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="gepp-audit-provider", daemon=True)
            self._thread.start()

    # ---- the background thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        failure = _THREAD_GONE
        # Nobody would see an exception here; the results of the calls that are owed tell of it.
        with contextlib.suppress(BaseException):
            failure = asyncio.run(self._serve()) or _THREAD_GONE
        self._finish_all(failure)

    async def _serve(self) -> Failure | None:
        """Serve until `close`; the failure that keeps the client from being built, else None."""
        exchange, failure = self._build()
        if exchange is None:
            return failure
        stop = asyncio.Event()
        with self._lock:
            self._exchange = exchange
            self._stop = stop
            if self._closed:
                return None
            self._loop = asyncio.get_running_loop()
            backlog, self._backlog = self._backlog, []
        self._settled.set()
        for request in backlog:
            self._begin(request)
        try:
            await stop.wait()
        finally:
            with self._lock:
                self._loop = None
            for task in list(self._tasks.values()):
                task.cancel()
            await exchange.close()
        return None

    def _build(self) -> tuple[Exchange | None, Failure | None]:
        if not self._usable_key():
            return None, _NO_KEY
        try:
            from gepp_audit.provider.exchange import Exchange
        except Exception:  # ImportError, or whatever a broken installation raises
            return None, _NO_SDK
        try:
            exchange = Exchange(
                api_key=self._api_key or "none",
                base_url=self._base_url,
                call_timeout=self._call_timeout,
                concurrency=self._concurrency,
            )
        except ValueError:
            return None, _BAD_URL
        except Exception:  # certificates that cannot be read, proxies that are no URL
            return None, _NO_CLIENT
        return exchange, None

    def _usable_key(self) -> bool:
        """A header can carry printable ASCII only. Servers other than OpenAI may need no key."""
        key = self._api_key
        if not key:
            return not is_openai(self._base_url)
        return key.isascii() and key.isprintable() and " " not in key

    def _begin(self, request: CallRequest) -> None:
        task = asyncio.get_running_loop().create_task(self._call(request))
        self._tasks[request.call_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(request.call_id, None))

    async def _call(self, request: CallRequest) -> None:
        result = CallResult(call_id=request.call_id, sent=True, failure=_THREAD_GONE)
        try:
            result = await self._exchange.call(request)
        finally:
            self._finish(result)

    def _cancel(self, ids: list[int]) -> None:
        for call_id in ids:
            task = self._tasks.get(call_id)
            if task is not None:
                task.cancel()

    # ---- accounting ------------------------------------------------------------------------------------------------

    def _finish(self, result: CallResult) -> None:
        """Queue `result`, if its call is still owed one."""
        with self._lock:
            if result.call_id not in self._open:
                return
            self._open.remove(result.call_id)
            self._undelivered += 1
        self._finished.put(result)

    def _finish_all(self, failure: Failure) -> None:
        """Finish every call that is owed a result, and every later one, with `failure`."""
        with self._lock:
            self._broken = failure
            self._loop = None
            ids = sorted(self._open)
            self._backlog.clear()
        self._settled.set()
        for call_id in ids:
            self._finish(CallResult(call_id=call_id, sent=failure.kind is not FailureKind.BLOCK, failure=failure))
