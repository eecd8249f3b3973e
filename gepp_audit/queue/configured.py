"""A run as the settings have it: what it is told to do, the database it works on, and the provider that it asks.

Whoever starts the queue (a command, a route, a schedule) makes them here, so that one setting means one thing at every
door.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from gepp_audit.errors import OperatorError
from gepp_audit.settings import Settings

if TYPE_CHECKING:  # each door needs some of it alone
    from decimal import Decimal

    from gepp_audit.database.engine import Database
    from gepp_audit.database.glance import Glance
    from gepp_audit.provider.openai_client import OpenAIClient
    from gepp_audit.queue.inspecting import Question
    from gepp_audit.queue.options import Provider, RunOptions
    from gepp_audit.queue.stopping import Stop


def run_options(
    settings: Settings,
    *,
    organizations: Sequence[int] = (),
    max_batches: int | None = None,
    max_transactions: int | None = None,
) -> RunOptions:
    """What `settings` tell a run, beside what its caller narrows. OperatorError: prices that cannot be read."""
    from gepp_audit.queue.options import RunOptions

    prices = None
    if settings.prices is not None:
        from gepp_audit.audit.pricing import parse_overrides

        prices = parse_overrides(settings.prices)
    return RunOptions(
        model=settings.model,
        engine="openai",
        concurrency=settings.concurrency,
        call_timeout=settings.call_timeout,
        lease_margin=settings.lease_margin,
        max_attempts=settings.max_attempts,
        first_backoff=settings.backoff_seconds,
        max_completion_tokens=settings.max_completion_tokens,
        batch_statuses=settings.batch_statuses,
        host=settings.host,
        send_fields=settings.send_fields,
        price_overrides=prices,
        organizations=tuple(organizations),
        max_batches=max_batches,
        max_transactions=max_transactions,
        max_seconds=settings.max_seconds,
    )


def database_of(settings: Settings, *, patience: float | None = None, seen: Glance | None = None) -> Database:
    """The database of the settings, its schema checked; the caller closes it. `patience`: seconds for which a database
    that is out of reach is tried again; None: the usual ones. `seen`: who glanced at it.

    OperatorError: no address, no database, not reachable, or a schema of another version.
    """
    from gepp_audit.database.engine import open_database
    from gepp_audit.database.migrate import require_schema

    database = open_database(settings.require_database_url(), seen)
    if patience is not None:
        database.patience = patience
    try:
        require_schema(database)
    except BaseException:
        database.close()
        raise
    return database


def glance_of(settings: Settings, options: RunOptions) -> Glance:
    """A first look at the database, before anything of weight is loaded; hand it to `database_of`, and close it.

    Where a run is for some organizations alone, nothing is foreseen. OperatorError: no address.
    """
    from gepp_audit.database.glance import Glance, glance
    from gepp_audit.queue.liveness import host_name

    url = settings.require_database_url()
    return Glance() if options.organizations else glance(url, options.batch_statuses, host_name(options.host))


def price_of(settings: Settings) -> Callable[[int, int], Decimal | None]:
    """USD that so many tokens of input and output cost at most at the settings' model; None: its price is not known.
    OperatorError: prices that cannot be read.
    """
    from gepp_audit.audit import pricing

    overrides = None if settings.prices is None else pricing.parse_overrides(settings.prices)
    return lambda read, written: pricing.most(settings.model, read, written, overrides)


def question(settings: Settings, *, older_than: int, ids: Sequence[int] = ()) -> Question:
    """What `stuck` asks under these settings. OperatorError: prices that cannot be read."""
    from gepp_audit.queue.inspecting import Question

    return Question(
        older_than=older_than,
        batch_statuses=settings.batch_statuses,
        ids=tuple(ids),
        host=settings.host,
        most_output=settings.max_completion_tokens,
        price=price_of(settings),
    )


@contextlib.contextmanager
def provider_of(
    settings: Settings, stop: Stop, at_work: Callable[[], None], *, expected: bool = False
) -> Iterator[Callable[[], Provider]]:
    """How a run opens its provider, once it knows that there is work; it is closed at the end.

    `at_work` is called first. `expected`: the provider will be wanted, so it may load from now on. OperatorError of
    what is yielded: no key is set.
    """
    opened: list[OpenAIClient] = []

    def prepared() -> OpenAIClient:
        if not opened:
            opened.append(_client(settings))
            opened[0].prepare()
        return opened[0]

    def open_provider() -> OpenAIClient:
        at_work()
        client = prepared()
        stop.tells(client.wake)
        return client

    try:
        if expected:
            with contextlib.suppress(OperatorError):  # whoever opens it is told
                prepared()
        yield open_provider
    finally:
        for client in opened:
            client.close()


def _client(settings: Settings) -> OpenAIClient:
    from gepp_audit.provider.openai_client import OpenAIClient  # a tick without work has no use for it

    return OpenAIClient(
        api_key=settings.require_api_key(),
        base_url=settings.openai_base_url,
        call_timeout=settings.call_timeout,
        concurrency=settings.concurrency,
        model=settings.model,
    )
