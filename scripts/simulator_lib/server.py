"""The simulator itself: routes, authentication, limits, latency, and the scenario in force. One event loop, no threads.

`Simulator.handle` turns a request into a reply at the moment of its arrival; the connection writes it when it is due.
Chance (jitter, `probability`) is a hash of seed, transaction and attempt, so that the order of arrival changes nothing.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from .answers import answer, as_text
from .calls import Book, Call, Window, key_hash
from .http_protocol import Reply, Request, http_date
from .requests import ChatRequest, RequestError, read_request
from .scenario import Action, Scenario, ScenarioError, read_scenario
from .spoiling import COMPLETION, OBJECT, TEXT
from .wire import MODEL, PromptCache, completion, encode, error, model

#: what the headers tell where no limit is set
_ADVERTISED: Final = (30_000, 150_000_000)
_NO_TRANSACTION: Final = "This is the simulator of gepp-audit. It judges transactions by rules, and this is neither."


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How the simulator behaves. Times are in milliseconds."""

    latency_ms: float = 0.0
    #: the latency is drawn from latency ± jitter
    jitter_ms: float = 0.0
    #: the first answer on each connection takes so much longer
    access_latency_ms: float = 0.0
    seed: int = 0
    api_key: str | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class Simulator:
    """The state of one server."""

    def __init__(self, options: Options, scenario: Scenario, book: Book) -> None:
        self._options = options
        self._scenario = scenario
        self._book = book
        self._cache = PromptCache()
        self._window = Window()
        self._calls = 0
        self._routes: dict[tuple[str, str], Callable[[Request], Reply]] = {
            ("POST", "/v1/chat/completions"): self._chat,
            ("GET", "/v1/models"): lambda _: Reply(200, encode({"object": "list", "data": [model()]})),
            ("GET", f"/v1/models/{MODEL}"): lambda _: Reply(200, encode(model())),
            ("GET", "/control/calls"): lambda _: Reply(200, self._book.as_json()),
            ("GET", "/control/summary"): lambda _: Reply(200, encode(self._book.summary())),
            ("GET", "/control/scenario"): lambda _: Reply(200, encode(self._scenario.source)),
            ("POST", "/control/scenario"): self._set_scenario,
            ("POST", "/control/reset"): self._reset,
        }

    def handle(self, request: Request) -> Reply:
        """The reply to any request."""
        path = request.path.partition("?")[0].rstrip("/")
        route = self._routes.get((request.method, path))
        if path.startswith("/control/") and route is not None:
            return route(request)
        refused = self._refused_key(request)
        if refused is not None:
            return self._noted(request, refused) if path == "/v1/chat/completions" else refused
        if route is not None:
            return route(request)
        if any(known == path for _, known in self._routes):
            return Reply(405, error(f"Not allowed to {request.method} on {path}.", code="method_not_supported"))
        if request.method == "GET" and path.startswith("/v1/models/"):
            message = f"The model '{path.removeprefix('/v1/models/')}' does not exist."
            return Reply(404, error(message, param="model", code="model_not_found"))
        return Reply(404, error(f"Invalid URL ({request.method} {path})", code="unknown_url"))

    # -- control ---------------------------------------------------------------------------------------------------

    def _set_scenario(self, request: Request) -> Reply:
        try:
            self._scenario = read_scenario(json.loads(request.body))
        except (ValueError, RecursionError):
            return Reply(400, encode({"error": "the scenario is not JSON"}))
        except ScenarioError as wrong:
            return Reply(400, encode({"error": str(wrong)}))
        return Reply(200, encode({"rules": len(self._scenario.rules)}))

    def _reset(self, _request: Request) -> Reply:
        """As freshly started, but with no scenario."""
        self._scenario = Scenario()
        self._book.reset()
        self._cache = PromptCache()
        self._window = Window()
        return Reply(200, encode({"reset": True}))

    # -- chat ------------------------------------------------------------------------------------------------------

    def _refused_key(self, request: Request) -> Reply | None:
        wanted = self._options.api_key
        if wanted is None:
            return None
        key = _key(request)
        if key is None:
            return Reply(401, error("You didn't provide an API key.", code=None))
        if hmac.compare_digest(key.encode("utf-8", "replace"), wanted.encode("utf-8", "replace")):
            return None
        return Reply(401, error(f"Incorrect API key provided: {_masked(key)}.", code="invalid_api_key"))

    def _noted(self, request: Request, reply: Reply) -> Reply:
        """A call that is refused before anybody looked at it, with its place in the book."""
        return self._delivered(request, None, self._new_call(request, None), reply, None)

    def _chat(self, request: Request) -> Reply:
        try:
            asked = read_request(request.body)
        except RequestError as refused:
            return self._noted(request, Reply(refused.status, encode({"error": refused.error})))
        call = self._new_call(request, asked)
        throttled = self._throttled(request.arrived)
        if throttled is not None:
            return self._delivered(request, asked, call, throttled, None)
        action = self._scenario.action(
            asked.transaction_id, call.attempt, asked.model, lambda rule: self._chance(call, f"rule{rule}")
        )
        if action is not None and action.status is not None:
            return self._delivered(request, asked, call, self._failed(request, action), action)
        body = self._completion(asked, call, action)
        self._window.add(request.arrived, (call.prompt_tokens or 0) + (call.completion_tokens or 0))
        return self._delivered(request, asked, call, Reply(200, encode(body)), action)

    def _new_call(self, request: Request, asked: ChatRequest | None) -> Call:
        self._calls += 1
        key = _key(request)
        transaction_id = None if asked is None else asked.transaction_id
        call = Call(
            number=self._calls,
            received=round(request.received, 6),
            answered=None,
            ending="pending",
            status=0,
            action=None,
            request_id=f"req_{self._digest(str(self._calls), 16).hex()}",
            transaction_id=transaction_id,
            attempt=self._book.attempt(transaction_id),
            model=None if asked is None else asked.model,
            safety_identifier=None if asked is None else asked.safety_identifier,
            auth=None if key is None else key_hash(key),
        )
        self._book.begin(call)
        return call

    def _completion(self, asked: ChatRequest, call: Call, action: Action | None) -> dict[str, Any]:
        names = () if action is None else action.answer
        text = self._text(asked, names)
        prompt = self._cache.look_up(asked)
        body = completion(
            asked,
            text,
            prompt,
            number=call.number,
            created=int(call.received),
            reasoning=0 if asked.transaction is None else 64 + 8 * len(asked.rule_ids),
        )
        call.prompt_tokens, call.cached_tokens = prompt[:2]
        call.completion_tokens = body["usage"]["completion_tokens"]
        for name in names:
            if name in COMPLETION:
                COMPLETION[name](body)
        return body

    def _text(self, asked: ChatRequest, names: tuple[str, ...]) -> str:
        if asked.transaction is None:
            text = _NO_TRANSACTION
        else:
            told = answer(asked.transaction, asked.rule_ids)
            for name in names:
                if name in OBJECT:
                    OBJECT[name](told)
            text = as_text(told)
        for name in names:
            if name in TEXT:
                text = TEXT[name](text)
        return text

    def _failed(self, request: Request, action: Action) -> Reply:
        body = action.body
        if b"{key}" in body:
            body = body.replace(b"{key}", (_key(request) or "").encode("utf-8", "replace"))
        return Reply(action.status or 200, body, action.content_type)

    def _throttled(self, now: float) -> Reply | None:
        """A refusal where a limit of the minute is reached."""
        used = self._window.used(now)
        limits = (self._options.requests_per_minute, self._options.tokens_per_minute)
        for kind, short, count, limit in zip(("requests", "tokens"), ("RPM", "TPM"), used, limits, strict=True):
            if limit is not None and count >= limit:
                wait = self._window.frees(now)
                message = (
                    f"Rate limit reached for {MODEL} on {kind} per min ({short}): Limit {limit}, Used {count}. "
                    f"Please try again in {wait:.3f}s."
                )
                headers = (("retry-after", str(-int(-wait // 1))), ("retry-after-ms", str(-int(-wait * 1000 // 1))))
                return Reply(429, error(message, type_=kind, code="rate_limit_exceeded"), headers=headers)
        return None

    # -- delivery --------------------------------------------------------------------------------------------------

    def _delivered(
        self, request: Request, asked: ChatRequest | None, call: Call, reply: Reply, action: Action | None
    ) -> Reply:
        """The reply with its headers, its delay and its place in the book."""
        call.status = reply.status
        reply.delay = self._delay(request, call)
        reply.headers = (
            ("x-request-id", call.request_id),
            ("openai-version", "2020-10-01"),
            ("openai-processing-ms", str(round(reply.delay * 1000))),
            *self._limit_headers(request.arrived),
            *reply.headers,
        )
        if action is not None:
            call.action = action.name
            reply.delay += action.extra_latency_ms / 1000
            reply.headers = _merged(reply.headers, action)
            reply.content_type = action.content_type
            reply.hang, reply.hang_up = action.hang, action.hang_up
            reply.drip_seconds, reply.cut_after = action.drip_seconds, action.cut_after

        def ended(ending: str) -> None:
            call.ending = ending
            call.answered = round(time.time(), 6) if ending == "answered" else None
            self._book.end(call)

        reply.ended = ended
        return reply

    def _delay(self, request: Request, call: Call) -> float:
        options = self._options
        milliseconds = options.latency_ms
        if options.jitter_ms:
            milliseconds += options.jitter_ms * (2 * self._chance(call, "jitter") - 1)
        if request.first:
            milliseconds += options.access_latency_ms
        return max(milliseconds, 0.0) / 1000

    def _limit_headers(self, now: float) -> tuple[tuple[str, str], ...]:
        requests, tokens = self._window.used(now)
        most_requests = self._options.requests_per_minute or _ADVERTISED[0]
        most_tokens = self._options.tokens_per_minute or _ADVERTISED[1]
        reset = f"{self._window.frees(now):.3f}s"
        return (
            ("x-ratelimit-limit-requests", str(most_requests)),
            ("x-ratelimit-limit-tokens", str(most_tokens)),
            ("x-ratelimit-remaining-requests", str(max(most_requests - requests, 0))),
            ("x-ratelimit-remaining-tokens", str(max(most_tokens - tokens, 0))),
            ("x-ratelimit-reset-requests", reset),
            ("x-ratelimit-reset-tokens", reset),
        )

    def _chance(self, call: Call, purpose: str) -> float:
        """A number from 0 to below 1 that belongs to this transaction, attempt and purpose."""
        whom = call.transaction_id if call.transaction_id is not None else f"call {call.number}"
        return int.from_bytes(self._digest(f"{purpose}:{whom}:{call.attempt}", 8)) / 2**64

    def _digest(self, text: str, size: int) -> bytes:
        return blake2b(f"{self._options.seed}:{text}".encode("utf-8", "replace"), digest_size=size).digest()


def _merged(headers: tuple[tuple[str, str], ...], action: Action) -> tuple[tuple[str, str], ...]:
    """The scenario's headers replace those of the same name."""
    given = action.headers
    if action.retry_after_date is not None:
        given = (*given, ("Retry-After", http_date(action.retry_after_date)))
    replaced = {name.lower() for name, _ in given}
    return (*(header for header in headers if header[0].lower() not in replaced), *given)


def _key(request: Request) -> str | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def _masked(key: str) -> str:
    """As OpenAI masks a key in its message."""
    return f"{key[:3]}***{key[-4:]}" if len(key) > 12 else "***"
