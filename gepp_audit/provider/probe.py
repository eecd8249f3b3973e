"""One look at the provider that costs no tokens: is the key accepted, and is the model there? `GET /models`.

Imports the SDK: load this module only where the provider is to be asked.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import httpx2

from gepp_audit.model import ErrorCode, Failure
from gepp_audit.provider.clock import clock
from gepp_audit.provider.errors import ExceptionKind, classify
from gepp_audit.provider.exchange import of_exception, silence_libraries, split_credentials
from gepp_audit.provider.models import OPENAI_BASE_URL
from gepp_audit.provider.transport import Attempt, BoundedClient, current_attempt

#: statuses by which a server says that it keeps no list of models
_NO_SUCH_ROUTE: Final = frozenset({404, 405, 501})


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """What the provider said."""

    #: it took the key; None: it has no such route, so the key was not tried
    accepted: bool | None
    #: it knows the model; None: it did not say
    has_model: bool | None = None
    #: why it refused, or was not reached
    failure: Failure | None = None
    latency_ms: int = 0


def probe(api_key: str, base_url: str | None, model: str, seconds: float) -> Probed:
    """Ask `base_url` (None: OpenAI) for its models, within so many seconds. Never raises for what a server does."""
    return asyncio.run(_probe(api_key, base_url, model, seconds))


async def _probe(api_key: str, base_url: str | None, model: str, seconds: float) -> Probed:
    silence_libraries()
    began = clock()
    attempt = Attempt(send_before=began + seconds)
    current_attempt.set(attempt)
    try:
        url, auth = split_credentials(base_url or OPENAI_BASE_URL)
        headers = {"Accept-Encoding": "identity"} | ({} if auth else {"Authorization": f"Bearer {api_key}"})
        async with asyncio.timeout(seconds), BoundedClient(auth=auth, headers=headers, timeout=seconds) as client:
            answer = await client.get(f"{url.rstrip('/')}/models", follow_redirects=False)
            found = _read(answer, model)
            if found.accepted and not found.has_model:
                # some list only a part of what they serve
                one = await client.get(f"{url.rstrip('/')}/models/{quote(model, safe='')}", follow_redirects=False)
                found = Probed(accepted=True, has_model=_has(one))
    except httpx2.TimeoutException:
        found = Probed(accepted=None, failure=classify(None, None, None, ExceptionKind.TIMEOUT))
    except Exception as error:  # whatever a server or the way to it does is a finding
        found = Probed(accepted=None, failure=of_exception(error, attempt))
    return Probed(
        accepted=found.accepted,
        has_model=found.has_model,
        failure=found.failure,
        latency_ms=round((clock() - began) * 1000),
    )


def _read(answer: httpx2.Response, model: str) -> Probed:
    if answer.status_code != 200:
        failure = classify(answer.status_code, answer.headers, answer.content, now=time.time())
        if answer.status_code in _NO_SUCH_ROUTE and failure.code is not ErrorCode.KEY_REJECTED:
            return Probed(accepted=None)
        return Probed(accepted=False if failure.code is ErrorCode.KEY_REJECTED else None, failure=failure)
    names = _names(answer.content)
    return Probed(accepted=True, has_model=model in names if names else None)


def _has(answer: httpx2.Response) -> bool | None:
    if answer.status_code == 200:
        return True
    failure = classify(answer.status_code, answer.headers, answer.content, now=time.time())
    return False if failure.code is ErrorCode.MODEL_UNAVAILABLE or answer.status_code == 404 else None


def _names(body: bytes) -> set[str]:
    """The ids in `{"data": [{"id": …}]}`; none where it is something else."""
    try:
        told: Any = json.loads(body)
        return {entry["id"] for entry in told["data"] if isinstance(entry["id"], str)}
    except (ValueError, TypeError, KeyError, RecursionError):
        return set()
