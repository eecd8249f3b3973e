"""Every setting in one frozen dataclass, each value with its origin: flag > environment > env file > default.

`load` is the only way in. It reads at most two files (the env file, the key file), takes everything else as arguments,
and names all wrong values in one error. A setting is declared once, as a field of `Settings`: its variable, its parser,
its default. An empty value counts as unset. Secrets are wrapped, so that no repr, log line or traceback shows them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from gepp_audit import setting_values as values
from gepp_audit.errors import OperatorError
from gepp_audit.setting_values import Secret, masked_url, secrets_of_url

__all__ = ["Origin", "Secret", "Settings", "Source", "load", "masked_url"]

ENV_FILE_VARIABLE: Final = "GEPP_AUDIT_ENV_FILE"
_KEY_FILE_VARIABLE: Final = "OPENAI_API_KEY_FILE"
_DEFAULT_ENV_FILE: Final = ".env"
#: bytes; a secret that signs with SHA-256 is no shorter than the hash
SHORTEST_JWT_SECRET: Final = 32
#: a key file larger than this is some other file
_LARGEST_KEY_FILE: Final = 10_000


class Source(StrEnum):
    """What a value may come from, the strongest first."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    ENV_FILE = "env file"
    DEFAULT = "default"


class Origin(NamedTuple):
    """Where one value came from."""

    source: Source
    #: the flag's name, or the env file with the line
    place: str | None = None

    def __str__(self) -> str:
        return self.source.value if self.place is None else f"{self.source.value} {self.place}"


_BY_DEFAULT: Final = Origin(Source.DEFAULT)


def _read(variable: str, parse: Callable[[str], Any]) -> Mapping[str, Any]:
    """What is said of a setting's field: the variable that sets it, and how its text becomes the value."""
    return {"variable": variable, "parse": parse}


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """What the operator has set. Durations are seconds. A field named in `origins` did not keep its default."""

    database_url: Secret | None = field(default=None, metadata=_read("DATABASE_URL", values.database_url))
    openai_api_key: Secret | None = field(default=None, metadata=_read("OPENAI_API_KEY", values.api_key))
    #: read when the settings are loaded; what is wrong with it is told by `require_api_key`
    openai_api_key_file: Path | None = field(default=None, metadata=_read(_KEY_FILE_VARIABLE, values.path))
    #: None: OpenAI itself
    openai_base_url: str | None = field(default=None, metadata=_read("OPENAI_BASE_URL", values.web_url))
    model: str = field(default="gpt-6-luna", metadata=_read("GEPP_AUDIT_MODEL", values.word))
    #: calls in flight at the same time in one run
    concurrency: int = field(default=32, metadata=_read("GEPP_AUDIT_CONCURRENCY", values.whole(1, 1000)))
    #: after this a run takes no more work; None: it goes on until nothing is due
    max_seconds: float | None = field(default=None, metadata=_read("GEPP_AUDIT_MAX_SECONDS", values.seconds(86_400)))
    #: the whole call, from the first byte sent to the last one read
    call_timeout: float = field(default=60.0, metadata=_read("GEPP_AUDIT_CALL_TIMEOUT", values.seconds(3_600)))
    #: a lease ends so long after its call's timeout
    lease_margin: float = field(default=30.0, metadata=_read("GEPP_AUDIT_LEASE_MARGIN", values.seconds(3_600)))
    #: bad answers after which a transaction is given up
    max_attempts: int = field(default=3, metadata=_read("GEPP_AUDIT_MAX_ATTEMPTS", values.whole(1, 100)))
    #: the first wait after a failed call; it doubles with each further one
    backoff_seconds: float = field(default=2.0, metadata=_read("GEPP_AUDIT_BACKOFF_SECONDS", values.seconds(3_600)))
    #: the cap of one answer's tokens, reasoning included
    max_completion_tokens: int = field(
        default=4_000, metadata=_read("GEPP_AUDIT_MAX_COMPLETION_TOKENS", values.whole(16, 1_000_000))
    )
    #: the statuses by which the platform marks an open batch
    batch_statuses: tuple[str, ...] = field(
        default=("in_progress",), metadata=_read("GEPP_AUDIT_BATCH_STATUSES", values.some_of("in_progress", "pending"))
    )
    #: None: the host's own name
    host: str | None = field(default=None, metadata=_read("GEPP_AUDIT_HOST", values.word))
    #: fields of a transaction that are sent to the provider beside the listed ones
    send_fields: frozenset[str] = field(
        default=frozenset(), metadata=_read("GEPP_AUDIT_SEND_FIELDS", values.send_fields)
    )
    #: JSON that overrides the built-in prices, as text
    prices: str | None = field(default=None, metadata=_read("GEPP_AUDIT_PRICES", values.prices))
    log_file: Path | None = field(default=None, metadata=_read("GEPP_AUDIT_LOG_FILE", values.path))
    #: None: readable on stderr, JSON lines in the log file
    log_format: str | None = field(
        default=None, metadata=_read("GEPP_AUDIT_LOG_FORMAT", values.one_of("console", "json"))
    )
    #: who knows this address can pretend that a run went well
    ping_url: Secret | None = field(default=None, metadata=_read("GEPP_AUDIT_PING_URL", values.secret_web_url))
    #: with which the platform signs its users' tokens
    jwt_secret: Secret | None = field(default=None, metadata=_read("GEPP_AUDIT_JWT_SECRET", values.shared_secret))
    #: `serve` processes what its page or its API queued, instead of leaving it to cron
    process_on_start: bool = field(default=False, metadata=_read("GEPP_AUDIT_PROCESS_ON_START", values.yes_or_no))
    #: metrics of process-queue for Prometheus' textfile collector
    metrics_file: Path | None = field(default=None, metadata=_read("GEPP_AUDIT_METRICS_FILE", values.path))

    #: by field name
    origins: Mapping[str, Origin] = field(default_factory=dict)
    #: where values were looked for, in words
    searched: tuple[str, ...] = ()
    #: the env file that was read; None: there is none
    env_file: Path | None = None
    #: names in the env file that begin like ours and are none: typing errors, or settings of another version
    unknown: tuple[str, ...] = ()
    #: why the key file gave no key
    key_file_problem: str | None = None

    def origin(self, name: str) -> Origin:
        """Where the value of the field `name` came from."""
        return self.origins.get(name, _BY_DEFAULT)

    def require_database_url(self) -> str:
        """The database's address, or an OperatorError that names each place that was looked at."""
        if self.database_url is not None:
            return self.database_url.reveal()
        raise OperatorError(
            f"DATABASE_URL is not set. Looked at {_in_words(self.searched)}.",
            fix="Set DATABASE_URL=postgresql://USER:PASSWORD@HOST:PORT/NAME (or sqlite:///FILE) in one of them, "
            "or name an env file with --env-file.",
            code="no_database_url",
        )

    def require_api_key(self) -> str:
        """The provider's key, or an OperatorError that says why there is none."""
        if self.openai_api_key is not None:
            return self.openai_api_key.reveal()
        why = self.key_file_problem or f"OPENAI_API_KEY is not set. Looked at {_in_words(self.searched)}"
        raise OperatorError(
            f"{why}.",
            fix="Set OPENAI_API_KEY, or OPENAI_API_KEY_FILE to a file that holds the key alone.",
            code="no_api_key",
        )

    def require_jwt_secret(self) -> str:
        """The secret that users' tokens are signed with, or an OperatorError: none is set, or one that can be guessed.

        A key of HS256 has at least the 256 bits of its hash (RFC 7518, section 3.2).
        """
        secret = "" if self.jwt_secret is None else self.jwt_secret.reveal()
        length = len(secret.encode())
        if length >= SHORTEST_JWT_SECRET:
            return secret
        if self.jwt_secret is None:
            why = f"GEPP_AUDIT_JWT_SECRET is not set. Looked at {_in_words(self.searched)}"
        else:
            why = f"GEPP_AUDIT_JWT_SECRET ({self.origin('jwt_secret')}) has {length} bytes, at least "
            why += f"{SHORTEST_JWT_SECRET} are needed: a shorter one can be guessed"
        raise OperatorError(
            f"{why}.",
            fix="Set it to the secret with which the platform signs its users' tokens; "
            'to try things out on this machine, "gepp-audit serve --dev" needs none.',
            code="jwt_secret",
        )

    def secrets(self) -> tuple[str, ...]:
        """Every text that must not appear in a log line, whole or as the part of an address that is secret."""
        wrapped = (self.openai_api_key, self.ping_url, self.jwt_secret)
        found = {secret.reveal() for secret in wrapped if secret is not None}
        for url in (self.database_url and self.database_url.reveal(), self.openai_base_url):
            found.update(secrets_of_url(url) if url else ())
        return tuple(sorted(found, key=lambda one: (-len(one), one)))

    @staticmethod
    def variables() -> dict[str, str]:
        """The variable of each setting, by field name."""
        return {setting.name: setting.metadata["variable"] for setting in _FIELDS}

    def rows(self) -> list[tuple[str, str, str]]:
        """Each setting as (variable, value for a person, origin), secrets masked."""
        return [
            (setting.metadata["variable"], _shown(getattr(self, setting.name)), str(self.origin(setting.name)))
            for setting in _FIELDS
        ]

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value}' for name, value, _ in self.rows())})"


_FIELDS: Final = tuple(setting for setting in fields(Settings) if "variable" in setting.metadata)
_BY_NAME: Final = {setting.name: setting for setting in _FIELDS}
_VARIABLES: Final = frozenset(setting.metadata["variable"] for setting in _FIELDS) | {ENV_FILE_VARIABLE}


def load(flags: Mapping[str, Any], environ: Mapping[str, str], cwd: Path) -> Settings:
    """The settings in force. `flags`: by field name, and `env_file`; None is a flag that was not given.

    OperatorError: an env file that was named and cannot be read (exit 2 if a flag named it), or wrong values, all of
    them in one message (exit 2 if only flags are wrong, else 1).
    """
    unexpected = flags.keys() - _BY_NAME.keys() - {"env_file"}
    if unexpected:
        raise TypeError(f"no such settings: {', '.join(sorted(unexpected))}")
    env_file = _read_env_file(flags.get("env_file"), environ, cwd)
    found: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    wrong = [(Source.ENV_FILE, f"{env_file.path} line {line}: is no NAME=value") for line in env_file.broken_lines]
    for name, setting in _BY_NAME.items():
        given = _strongest(name, setting.metadata["variable"], flags, environ, env_file)
        if given is None:
            continue
        text, origins[name] = given
        try:
            found[name] = setting.metadata["parse"](text)
        except ValueError as error:
            wrong.append((origins[name].source, f"{setting.metadata['variable']} ({origins[name]}) {error}"))
    problem = _take_key_file(found, origins, wrong, cwd)
    if wrong:
        raise _all_wrong(wrong)
    for name in ("log_file", "metrics_file"):
        if name in found:
            found[name] = cwd / found[name]
    return Settings(
        **found,
        origins=origins,
        searched=("the environment", env_file.told),
        env_file=env_file.path,
        unknown=tuple(name for name in env_file.values if name.startswith("GEPP_AUDIT_") and name not in _VARIABLES),
        key_file_problem=problem,
    )


def _strongest(
    name: str, variable: str, flags: Mapping[str, Any], environ: Mapping[str, str], env_file: _EnvFile
) -> tuple[str, Origin] | None:
    in_file, line = env_file.values.get(variable, ("", 0))
    flag = flags.get(name)
    candidates = (
        ("" if flag is None else str(flag), Origin(Source.FLAG, f"--{name.replace('_', '-')}")),
        (environ.get(variable, ""), Origin(Source.ENVIRONMENT)),
        (in_file, Origin(Source.ENV_FILE, f"{env_file.path} line {line}")),
    )
    return next(((text.strip(), origin) for text, origin in candidates if text.strip()), None)


def _all_wrong(wrong: list[tuple[Source, str]]) -> OperatorError:
    if len(wrong) == 1:
        message = f"a setting is wrong: {wrong[0][1]}."
    else:
        message = f"{len(wrong)} settings are wrong:\n" + "\n".join(f"  {text}" for _, text in wrong)
    return OperatorError(
        message,
        fix="Correct what is named; .env.example explains each setting.",
        code="wrong_settings",
        exit_code=2 if all(source is Source.FLAG for source, _ in wrong) else 1,
    )


# -- the env file ------------------------------------------------------------------------------------------------------


class _EnvFile(NamedTuple):
    """What the env file says; without one, nothing."""

    path: Path | None = None
    #: for the operator: which file was looked at
    told: str = ""
    #: by variable: the text and its line
    values: Mapping[str, tuple[str, int]] = MappingProxyType({})
    broken_lines: tuple[int, ...] = ()


def _read_env_file(flag: Any, environ: Mapping[str, str], cwd: Path) -> _EnvFile:
    named = str(flag or "").strip() or environ.get(ENV_FILE_VARIABLE, "").strip()
    path = cwd / (named or _DEFAULT_ENV_FILE)
    if not named and not path.is_file():
        return _EnvFile(told=f"{path} (no such file)")
    exit_code = 2 if flag else 1
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _unreadable(path, error.strerror or type(error).__name__, exit_code) from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, "it is not UTF-8 text", exit_code) from error
    return _parse_env_file(path, text)


def _unreadable(path: Path, why: str, exit_code: int) -> OperatorError:
    return OperatorError(
        f"cannot read the env file {path}: {why}.",
        fix=f"Correct --env-file or {ENV_FILE_VARIABLE}, or the file's rights.",
        code="env_file",
        exit_code=exit_code,
    )


def _parse_env_file(path: Path, text: str) -> _EnvFile:
    # python-dotenv's parser itself: it knows lines, reports broken ones, and never expands ${…} in a password
    from io import StringIO

    from dotenv.parser import parse_stream

    found: dict[str, tuple[str, int]] = {}
    broken: list[int] = []
    for binding in parse_stream(StringIO(text)):
        told = binding.original.string
        line = binding.original.line + told[: len(told) - len(told.lstrip())].count("\n")
        if binding.error:
            broken.append(line)
        elif binding.key is not None:
            found[binding.key] = (binding.value or "", line)
    return _EnvFile(path=path, told=f"the env file {path}", values=found, broken_lines=tuple(broken))


# -- the key file ------------------------------------------------------------------------------------------------------


def _take_key_file(
    found: dict[str, Any], origins: dict[str, Origin], wrong: list[tuple[Source, str]], cwd: Path
) -> str | None:
    """Read the key's file where it is the stronger of the two; returns what is wrong with it.

    Commands that need no key must not fail for a key file that their user may not read, so this is no wrong setting.
    """
    file_origin, key_origin = origins.get("openai_api_key_file"), origins.get("openai_api_key")
    if file_origin is None or "openai_api_key_file" not in found:
        return None
    if key_origin is not None:
        order = list(Source)
        if key_origin.source is file_origin.source:
            wrong.append(
                (key_origin.source, f"OPENAI_API_KEY and {_KEY_FILE_VARIABLE} are both set ({key_origin.source.value})")
            )
            return None
        if order.index(key_origin.source) < order.index(file_origin.source):
            return None
    found.pop("openai_api_key", None)
    path = found["openai_api_key_file"] = cwd / found["openai_api_key_file"]
    try:
        found["openai_api_key"] = _key_in(path)
    except ValueError as error:
        return f"the key file {path} ({_KEY_FILE_VARIABLE}, {file_origin}) {error}"
    origins["openai_api_key"] = Origin(file_origin.source, f"{file_origin.place or _KEY_FILE_VARIABLE}: {path}")
    return None


def _key_in(path: Path) -> Secret:
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST_KEY_FILE + 1)
    except OSError as error:
        raise ValueError(
            f"cannot be read: {os.strerror(error.errno) if error.errno else type(error).__name__}"
        ) from error
    text = raw.decode("utf-8", errors="replace").strip()
    if not text or len(raw) > _LARGEST_KEY_FILE:
        raise ValueError("is empty" if not text else "holds more than a key")
    return values.api_key(text)


# -- words -------------------------------------------------------------------------------------------------------------


def _in_words(places: tuple[str, ...]) -> str:
    return " and ".join(places) or "nothing"


def _shown(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | frozenset):
        return ",".join(sorted(value)) or "none"
    if isinstance(value, Secret):
        return value.masked
    return masked_url(value) if isinstance(value, str) and "://" in value else str(value)
