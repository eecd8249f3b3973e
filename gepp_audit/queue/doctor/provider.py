"""The checks of the provider: key, model, price, shutdown; and with --online one look at its list of models."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from gepp_audit.audit import pricing
from gepp_audit.errors import OperatorError
from gepp_audit.model import FailureKind, Usage
from gepp_audit.provider import models
from gepp_audit.queue import remedies
from gepp_audit.queue.doctor.check import Finding, critical, ok, unknown, warning
from gepp_audit.setting_values import masked_url

if TYPE_CHECKING:
    from gepp_audit.queue.doctor.surroundings import Surroundings
    from gepp_audit.settings import Settings

#: how long before a shutdown it is told
_NOTICE: Final = timedelta(days=60)
#: prices that were read so long ago may have changed
_PRICES_KEPT: Final = timedelta(days=180)
_MILLION: Final = 1_000_000
#: OpenAI's keys begin so, and are longer
_OPENAI_KEY: Final = "sk-"
_SHORTEST_KEY: Final = 20
_PROBE_SECONDS: Final = 15.0


def key(around: Surroundings) -> Finding:
    """A key is set, and looks like one."""
    settings = around.settings
    try:
        found = settings.require_api_key()
    except OperatorError as error:
        return critical(error.message, error.fix)
    origin = settings.origin("openai_api_key")
    if models.is_openai(settings.openai_base_url) and (not found.startswith(_OPENAI_KEY) or len(found) < _SHORTEST_KEY):
        return warning(
            f"A key is set ({origin}), but it does not look like one of OpenAI's, which begin with {_OPENAI_KEY}.",
            'Look at it; "gepp-audit doctor --online" tries it.',
        )
    return ok(f"A key is set ({origin}) and well formed; --online tries it.")


def model(around: Surroundings) -> Finding:
    """This version knows how to ask the model."""
    name = around.settings.model
    if models.is_known(name):
        return ok(f"{name} is known ({around.settings.origin('model')}); asked at {_where(around.settings)}.")
    if not models.is_openai(around.settings.openai_base_url):
        return ok(f"{name} at {_where(around.settings)} is asked with what every compatible server understands.")
    return warning(
        f"{name} is no model that this version knows, so it is asked without reasoning effort and cache breakpoints.",
        f"Correct GEPP_AUDIT_MODEL (default: {models.DEFAULT_MODEL}), or upgrade gepp-audit if the model is newer.",
    )


def model_shutdown(around: Surroundings) -> Finding | None:
    """OpenAI does not shut the model down within 60 days. Does not apply to other servers."""
    settings = around.settings
    if not models.is_openai(settings.openai_base_url):
        return None
    name, day, today = settings.model, models.shutdown_date(settings.model), datetime.now(UTC).date()
    if day is None:
        return ok(f"No shutdown of {name} is known to this version.")
    fix = f"Set GEPP_AUDIT_MODEL to another model (default: {models.DEFAULT_MODEL}), and compare before you do."
    if day <= today:
        return critical(f"OpenAI shut {name} down on {day}: calls to it fail.", fix)
    if day - today <= _NOTICE:
        return warning(f"OpenAI shuts {name} down on {day}, in {(day - today).days} days.", fix)
    return ok(f"OpenAI shuts {name} down on {day}, in {(day - today).days} days.")


def price(around: Surroundings) -> Finding:
    """It is known what a call costs, so that budgets and reports hold."""
    settings = around.settings
    overrides = None if settings.prices is None else pricing.parse_overrides(settings.prices)
    amounts = [
        pricing.cost(settings.model, usage, overrides=overrides)
        for usage in (
            Usage(input_tokens=_MILLION, output_tokens=0),
            Usage(input_tokens=_MILLION, cached_tokens=_MILLION, output_tokens=0),
            Usage(input_tokens=0, output_tokens=_MILLION),
        )
    ]
    known = [amount for amount in amounts if amount is not None]
    if len(known) < len(amounts):
        return warning(
            f"What {settings.model} costs is not known: costs are shown as unknown, and where money is "
            "limited no call may leave.",
            'Set GEPP_AUDIT_PRICES={"' + settings.model + '": {"input": "USD", "output": "USD"}} for 1,000,000 tokens.',
        )
    input_, cached, output = (_usd(amount) for amount in known)
    told = f"{settings.model} costs {input_} USD for 1,000,000 tokens in, {cached} from the cache, {output} out"
    if settings.prices is not None and settings.model in settings.prices:
        return ok(f"{told} (GEPP_AUDIT_PRICES).")
    if datetime.now(UTC).date() - pricing.PRICES_READ > _PRICES_KEPT:
        return warning(
            f"{told}, as of {pricing.PRICES_READ}: that is long ago.",
            f"Compare with {pricing.PRICES_SOURCE} and upgrade gepp-audit, or set GEPP_AUDIT_PRICES.",
        )
    return ok(f"{told}, as of {pricing.PRICES_READ}.")


def _usd(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


def online(around: Surroundings) -> Finding:
    """The provider accepts the key and has the model: asked for its list of models, which costs no tokens."""
    settings = around.settings
    api_key = settings.require_api_key()
    from gepp_audit.provider.probe import probe

    found = probe(api_key, settings.openai_base_url, settings.model, min(settings.call_timeout, _PROBE_SECONDS))
    where = _where(settings)
    if found.failure is not None:
        said, _, mend = found.failure.message.removesuffix(".").partition(". ")
        seen = f"{where} was asked for its models. {said}."
        if "OPENAI_API_KEY" in mend:  # another key is needed, not another right or address of this one
            return critical(seen, _another_key(settings))
        if found.failure.kind is not FailureKind.BLOCK:  # what a block needs, its own words say best
            mend = remedies.of_failure(found.failure.code.value)
        return critical(seen, f"{mend or remedies.of_refusal(found.failure.code.value).mend}.")
    if found.accepted is None:
        return unknown(
            f"{where} keeps no list of models, so the key was not tried.",
            'Run "gepp-audit process-queue --max-transactions 1": it asks about one queued transaction.',
        )
    accepted = f"{where} accepts the key ({found.latency_ms} ms)"
    if found.has_model is False:
        return critical(
            f"{accepted}, but has no model {settings.model}, or this key may not use it.",
            "Set GEPP_AUDIT_MODEL to a model that this key may use.",
        )
    if found.has_model is None:
        return ok(f"{accepted}, and does not say which models it has.")
    return ok(f"{accepted} and has {settings.model}.")


def _another_key(settings: Settings) -> str:
    """What to do about a key that is refused, by the setting that it came from."""
    file = settings.openai_api_key_file
    if file is not None:
        return f"Put a valid key into {file} (OPENAI_API_KEY_FILE)."
    return f"Set OPENAI_API_KEY to a valid key ({settings.origin('openai_api_key')})."


def _where(settings: Settings) -> str:
    return "OpenAI" if settings.openai_base_url is None else masked_url(settings.openai_base_url)
