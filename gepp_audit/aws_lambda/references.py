"""Settings that stand elsewhere: `NAME_SSM` names a parameter of the Systems Manager, `NAME_SECRET` a secret of the
Secrets Manager, for any setting NAME.

A secret's text is the value; `#KEY` behind its name or ARN takes that key of a JSON secret. DATABASE_URL_SECRET may
name a secret as RDS keeps it (JSON with `username` and `password`, and mostly `host`, `port`, `dbname`); what it lacks
comes from DATABASE_URL, which then holds no password.

What was fetched is kept in the sandbox's memory for `KEPT_SECONDS`, or until `forget`. boto3 comes with Lambda's own
runtime, elsewhere with the extra `[aws]`; it is imported only where something has to be fetched.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit, urlunsplit

from gepp_audit.errors import OperatorError
from gepp_audit.settings import Settings

KEPT_SECONDS: Final = 900.0
#: seconds for a connection, and for an answer; each is tried twice
_CONNECT_TIMEOUT: Final = 2.0
_READ_TIMEOUT: Final = 4.0


class _Store(NamedTuple):
    """One of the two services: how it is called, and how people call it."""

    service: str
    words: str
    right: str


_STORES: Final = {
    "_SSM": _Store("ssm", "the parameter", "ssm:GetParameter"),
    "_SECRET": _Store("secretsmanager", "the secret", "secretsmanager:GetSecretValue"),
}


@dataclass(frozen=True, slots=True)
class Reference:
    """One setting that stands elsewhere."""

    #: the setting's variable
    name: str
    #: the variable that refers
    variable: str
    store: _Store
    #: the parameter's or secret's name or ARN
    target: str
    #: of a JSON secret
    key: str | None = None


_kept: Final[dict[tuple[str, str], tuple[float, str]]] = {}


def forget() -> None:
    """Fetch everything anew when it is asked for next: a password or key was refused."""
    _kept.clear()


def resolved(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` with the values of its references, which are fetched unless they are kept.

    OperatorError: a reference beside a value, or two of them for one setting; a store that cannot be read, has no such
    entry, or gives us no right to it; a secret that does not hold what it should.
    """
    found = dict(environ)
    for reference in _references(environ):
        found[reference.name] = _value(reference, environ)
    return found


def _references(environ: Mapping[str, str]) -> Iterable[Reference]:
    for name in Settings.variables().values():
        given = [(name + ending, store) for ending, store in _STORES.items() if environ.get(name + ending, "").strip()]
        if len(given) > 1:
            raise _wrong(f"{' and '.join(variable for variable, _ in given)} are both set", "Keep one of them.")
        for variable, store in given:
            target, _, key = environ[variable].strip().partition("#")
            if environ.get(name, "").strip() and variable != "DATABASE_URL_SECRET":
                raise _wrong(f"{name} and {variable} are both set", "Keep one of them.")
            yield Reference(name, variable, store, target, key or None)


def _value(reference: Reference, environ: Mapping[str, str]) -> str:
    text = _fetched(reference.store, reference.target, reference.variable)
    told = _json_object(text)
    if reference.key is not None:
        value = told.get(reference.key)
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise _wrong(
                f"{reference.variable} names the key {reference.key} of a JSON secret, and {reference.target} has no "
                "such key",
                f"Correct {reference.variable} or the secret.",
            )
        return str(value)
    if reference.variable == "DATABASE_URL_SECRET" and {"username", "password"} <= told.keys():
        return _database_url(told, environ.get("DATABASE_URL", "").strip())
    if reference.variable == "DATABASE_URL_SECRET" and environ.get("DATABASE_URL", "").strip():
        raise _wrong(
            "DATABASE_URL and DATABASE_URL_SECRET are both set, and the secret holds no username and password",
            "Take DATABASE_URL away if the secret holds the whole address; else correct the secret.",
        )
    return text.strip()


def _json_object(text: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _database_url(told: Mapping[str, Any], base: str) -> str:
    """An address of what RDS keeps in a secret; host, port, name and parameters that it lacks are those of `base`."""
    parts = urlsplit(base)
    _, _, place = parts.netloc.rpartition("@")
    if told.get("host"):
        place = f"{told['host']}:{told.get('port') or 5432}"
    name = quote(str(told.get("dbname") or ""), safe="") or parts.path.lstrip("/")
    if not place or not name:
        raise _wrong(
            "DATABASE_URL_SECRET names a secret with username and password, and where the database is stands neither "
            "in it nor in DATABASE_URL",
            "Set DATABASE_URL=postgresql://HOST:PORT/NAME?sslmode=require, without a user.",
        )
    user, password = (quote(str(told[key]), safe="") for key in ("username", "password"))
    # Amazon's own drivers say "postgres" for the engine; whatever stands there, it is PostgreSQL
    return urlunsplit(("postgresql", f"{user}:{password}@{place}", f"/{name}", parts.query, ""))


# -- fetching ----------------------------------------------------------------------------------------------------------


def _fetched(store: _Store, target: str, variable: str) -> str:
    at, text = _kept.get((store.service, target), (0.0, ""))
    if (store.service, target) in _kept and time.monotonic() - at < KEPT_SECONDS:
        return text
    text = _fetch(store, target, variable)
    _kept[store.service, target] = (time.monotonic(), text)
    return text


def _fetch(store: _Store, target: str, variable: str) -> str:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise _wrong(
            f"{variable} is set, and boto3, which fetches it, is not installed",
            'Lambda\'s Python runtime brings it; elsewhere: pip install "gepp-audit[aws]".',
        ) from error
    patience = Config(
        connect_timeout=_CONNECT_TIMEOUT,
        read_timeout=_READ_TIMEOUT,
        retries={"total_max_attempts": 2, "mode": "standard"},
    )
    try:
        client = boto3.client(store.service, region_name=_region(target), config=patience)
        if store.service == "ssm":
            return str(client.get_parameter(Name=target, WithDecryption=True)["Parameter"]["Value"])
        told = client.get_secret_value(SecretId=target)
    except ClientError as error:
        raise _refused(store, target, variable, str(error.response.get("Error", {}).get("Code", "unknown"))) from error
    except (BotoCoreError, ValueError) as error:  # its message may quote what was sent
        raise _refused(store, target, variable, type(error).__name__) from error
    if "SecretString" not in told:
        raise _wrong(f"the secret {target} ({variable}) is binary", "Store it as text.")
    return str(told["SecretString"])


def _region(target: str) -> str | None:
    """The region that an ARN names; None: the function's own."""
    parts = target.split(":")
    return parts[3] if len(parts) > 5 and parts[0] == "arn" and parts[3] else None


def _refused(store: _Store, target: str, variable: str, code: str) -> OperatorError:
    if code.startswith("AccessDenied") or code == "NotAuthorized":
        fix = f"Give the function's role {store.right} on it (and kms:Decrypt on its key, if that is one of your own)."
    elif code in ("ParameterNotFound", "ResourceNotFoundException"):
        fix = f"Create it in the function's region and account, or correct {variable}."
    elif code.endswith(("TimeoutError", "ConnectionError")):
        fix = "In a VPC without a way out the function needs an interface endpoint for this service; see docs/aws.md."
    else:
        fix = (
            f"Look at {variable}, at the function's role, and at the service's state; the next invocation tries again."
        )
    return OperatorError(
        f"cannot read {store.words} {target} ({variable}): {code}.", fix=fix, code="settings_unreachable"
    )


def _wrong(what: str, fix: str) -> OperatorError:
    return OperatorError(f"a setting is wrong: {what}.", fix=fix, code="wrong_settings")
