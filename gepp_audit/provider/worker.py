"""The provider's process: builds the SDK's client, makes the calls it is given, and ends when its run is gone.

`openai_client` starts it with one end of a socket pair and holds the other; see `channel` for what is said. It has a
process of its own because importing the SDK takes longer than all of a run's first queries, and because its event loop
and the run's database work would wait for each other's turn in one interpreter.

It prints nothing, and signals that are meant for its run do not end it: the run decides what becomes of paid calls, and
the end of the socket ends this process, however the run died.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import select
import signal
import socket
from typing import TYPE_CHECKING, Final

from gepp_audit.model import CallRequest, CallResult, ErrorCode, Failure, FailureKind
from gepp_audit.provider.channel import Cancel, Channel, Ready, Terms
from gepp_audit.provider.models import is_openai

if TYPE_CHECKING:
    from gepp_audit.provider.exchange import Exchange

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
_UNEXPECTED: Final = Failure(
    kind=FailureKind.RETRY,
    code=ErrorCode.CONNECTION,
    message="The call ended in a way that no call ends.",
)


def main(descriptor: int) -> None:
    """Serve the run at the other end of the socket `descriptor`; never returns."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # nobody would see an exception here; the run sees the end of the socket
    with contextlib.suppress(BaseException):
        asyncio.run(_serve(Channel(socket.socket(fileno=descriptor))))
    os._exit(0)


async def _serve(channel: Channel) -> None:
    messages = _first_messages(channel)
    if not messages:
        return
    exchange, failure = _build(messages[0])
    gc.freeze()  # what the SDK brought stays, and need not be looked through at each collection
    gc.enable()
    channel.send(Ready(failure))
    if exchange is not None:
        await Worker(channel, exchange).serve(messages[1:])


def _first_messages(channel: Channel) -> list[object]:
    """Wait for the terms, and what may have come with them; empty: the run is gone."""
    while not channel.ended:
        select.select([channel], [], [])
        messages = channel.receive()
        if messages:
            return messages
    return []


def _build(terms: object) -> tuple[Exchange | None, Failure | None]:
    if not isinstance(terms, Terms) or not _usable_key(terms):
        return None, _NO_KEY
    try:
        from gepp_audit.provider.exchange import Exchange
    except Exception:  # ImportError, or whatever a broken installation raises
        return None, _NO_SDK
    try:
        exchange = Exchange(
            api_key=terms.api_key or "none",
            base_url=terms.base_url,
            call_timeout=terms.call_timeout,
            concurrency=terms.concurrency,
        )
    except ValueError:
        return None, _BAD_URL
    except Exception:  # certificates that cannot be read, proxies that are no URL
        return None, _NO_CLIENT
    return exchange, None


def _usable_key(terms: Terms) -> bool:
    """A header can carry printable ASCII only. Servers other than OpenAI may need no key."""
    key = terms.api_key
    if not key:
        return not is_openai(terms.base_url)
    return key.isascii() and key.isprintable() and " " not in key


class Worker:
    """The calls under way, one task each."""

    def __init__(self, channel: Channel, exchange: Exchange) -> None:
        self._channel = channel
        self._exchange = exchange
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._gone = asyncio.Event()
        self._waits_to_write = False

    async def serve(self, messages: list[object]) -> None:
        """Take messages, `messages` first, until the run is gone."""
        asyncio.get_running_loop().add_reader(self._channel, self._read)
        self._take(messages)
        self._flush()
        await self._gone.wait()

    def _read(self) -> None:
        self._take(self._channel.receive())
        if self._channel.ended:
            self._gone.set()

    def _take(self, messages: list[object]) -> None:
        for message in messages:
            if isinstance(message, CallRequest):
                task = asyncio.get_running_loop().create_task(self._call(message))
                self._tasks[message.call_id] = task
            elif isinstance(message, Cancel):
                for call_id in message.call_ids:
                    if call_id in self._tasks:
                        self._tasks[call_id].cancel()

    async def _call(self, request: CallRequest) -> None:
        result = CallResult(call_id=request.call_id, sent=True, failure=_UNEXPECTED)
        try:
            result = await self._exchange.call(request)
        finally:
            del self._tasks[request.call_id]
            self._channel.send(result)
            self._flush()

    def _flush(self) -> None:
        """Send what did not fit as soon as the run reads."""
        self._channel.flush()
        if self._channel.unsent == self._waits_to_write:
            return
        loop = asyncio.get_running_loop()
        self._waits_to_write = self._channel.unsent
        if self._waits_to_write:
            loop.add_writer(self._channel, self._flush)
        else:
            loop.remove_writer(self._channel)
