"""Settings: where each value comes from, what is refused, and that no secret shows."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.errors import OperatorError
from gepp_audit.settings import Secret, Settings, Source, load, masked_url

PRICES = '{"m": {"input": 1, "output": "0.4", "cached_input": 1e-3}}'
NOWHERE = Path("/nonexistent-folder-of-a-test")


def settings(
    environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None, cwd: Path = NOWHERE
) -> Settings:
    return load(flags or {}, environ or {}, cwd)


def refusal(
    environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None, cwd: Path = NOWHERE
) -> OperatorError:
    with pytest.raises(OperatorError) as caught:
        settings(environ, flags, cwd)
    return caught.value


# -- where a value comes from ----------------------------------------------------------------------------------------


def test_without_anything_the_defaults_hold() -> None:
    found = settings()
    assert (found.model, found.concurrency, found.max_seconds, found.call_timeout, found.lease_margin) == (
        "gpt-6-luna",
        32,
        None,
        60.0,
        30.0,
    )
    assert (found.max_attempts, found.backoff_seconds, found.batch_statuses) == (3, 2.0, ("in_progress",))
    assert found.origin("concurrency").source is Source.DEFAULT


@pytest.mark.parametrize("strongest", [Source.FLAG, Source.ENVIRONMENT, Source.ENV_FILE, Source.DEFAULT])
def test_the_strongest_place_wins(strongest: Source, tmp_path: Path) -> None:
    order = list(Source)
    given_in = order[order.index(strongest) :]
    (tmp_path / ".env").write_text("GEPP_AUDIT_CONCURRENCY=3\n" if Source.ENV_FILE in given_in else "")
    found = settings(
        {"GEPP_AUDIT_CONCURRENCY": "2"} if Source.ENVIRONMENT in given_in else {},
        {"concurrency": 1} if Source.FLAG in given_in else {},
        tmp_path,
    )
    assert found.concurrency == {"flag": 1, "environment": 2, "env file": 3, "default": 32}[strongest.value]
    assert found.origin("concurrency").source is strongest


def test_an_origin_names_the_flag_or_the_line_of_the_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# ours\n\nGEPP_AUDIT_MODEL=m\n")
    found = settings({}, {"max_seconds": 55.0}, tmp_path)
    assert str(found.origin("model")) == f"env file {tmp_path / '.env'} line 3"
    assert str(found.origin("max_seconds")) == "flag --max-seconds"


@pytest.mark.parametrize("empty", ["", "   ", "\t"])
def test_an_empty_value_is_an_unset_one(empty: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GEPP_AUDIT_CONCURRENCY=5\n")
    assert settings({"GEPP_AUDIT_CONCURRENCY": empty}, {"concurrency": None}, tmp_path).concurrency == 5


def test_a_flag_that_is_no_setting_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="colour"):
        settings({}, {"colour": 1})


# -- the env file ----------------------------------------------------------------------------------------------------


def test_a_named_env_file_is_used_instead_of_the_one_in_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GEPP_AUDIT_MODEL=here\n")
    (tmp_path / "other").write_text("GEPP_AUDIT_MODEL=there\n")
    assert settings({"GEPP_AUDIT_ENV_FILE": str(tmp_path / "other")}, cwd=tmp_path).model == "there"


def test_the_flag_for_the_env_file_is_stronger_than_the_variable(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("GEPP_AUDIT_MODEL=a\n")
    (tmp_path / "b").write_text("GEPP_AUDIT_MODEL=b\n")
    assert settings({"GEPP_AUDIT_ENV_FILE": "a"}, {"env_file": "b"}, tmp_path).model == "b"


@pytest.mark.parametrize(
    ("environ", "flags", "exit_code"),
    [({"GEPP_AUDIT_ENV_FILE": "missing"}, {}, 1), ({}, {"env_file": "missing"}, 2)],
)
def test_a_named_env_file_must_exist(
    environ: dict[str, str], flags: dict[str, str], exit_code: int, tmp_path: Path
) -> None:
    told = refusal(environ, flags, tmp_path)
    assert (told.code, told.exit_code) == ("env_file", exit_code)
    assert str(tmp_path / "missing") in told.message


def test_an_env_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"GEPP_AUDIT_MODEL=\xff\xfe\n")
    assert refusal(cwd=tmp_path).code == "env_file"


def test_a_folder_named_dot_env_is_no_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    assert settings(cwd=tmp_path).model == "gpt-6-luna"


def test_nothing_in_an_env_file_is_expanded(tmp_path: Path) -> None:
    url = "postgresql://u:p${HOME}$x#y@h/d"
    (tmp_path / ".env").write_text(f"DATABASE_URL={url}\n")
    assert settings({"HOME": "/root"}, cwd=tmp_path).require_database_url() == url


@pytest.mark.parametrize(
    "line",
    ['GEPP_AUDIT_MODEL="m"', "GEPP_AUDIT_MODEL='m'", "export GEPP_AUDIT_MODEL=m # that one", "GEPP_AUDIT_MODEL = m"],
)
def test_quotes_export_and_comments_of_an_env_file_are_understood(line: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n")
    assert settings(cwd=tmp_path).model == "m"


def test_a_line_that_is_no_assignment_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GEPP_AUDIT_MODEL=m\n\nDATABASE_URL postgresql://h/d\n")
    assert f"{tmp_path / '.env'} line 3: is no NAME=value" in refusal(cwd=tmp_path).message


def test_a_name_that_begins_like_ours_and_is_none_is_noted(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GEPP_AUDIT_CONCURENCY=3\nGEPP_AUDIT_HOST=h\nOTHER=1\n")
    assert settings(cwd=tmp_path).unknown == ("GEPP_AUDIT_CONCURENCY",)


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "wrong"),
    [
        ("DATABASE_URL", "mysql://h/d"),
        ("DATABASE_URL", "postgresql"),
        ("OPENAI_API_KEY", "sk-a b"),
        ("OPENAI_API_KEY", "sk-ก"),
        ("OPENAI_BASE_URL", "ftp://h"),
        ("OPENAI_BASE_URL", "https://"),
        ("GEPP_AUDIT_MODEL", "two words"),
        ("GEPP_AUDIT_CONCURRENCY", "0"),
        ("GEPP_AUDIT_CONCURRENCY", "1001"),
        ("GEPP_AUDIT_CONCURRENCY", "8.0"),
        ("GEPP_AUDIT_CONCURRENCY", "๓"),
        ("GEPP_AUDIT_CONCURRENCY", "1_0"),
        ("GEPP_AUDIT_MAX_SECONDS", "-1"),
        ("GEPP_AUDIT_MAX_SECONDS", "nan"),
        ("GEPP_AUDIT_CALL_TIMEOUT", "0"),
        ("GEPP_AUDIT_CALL_TIMEOUT", "inf"),
        ("GEPP_AUDIT_LEASE_MARGIN", "30s"),
        ("GEPP_AUDIT_MAX_ATTEMPTS", "0"),
        ("GEPP_AUDIT_BACKOFF_SECONDS", "1e9"),
        ("GEPP_AUDIT_MAX_COMPLETION_TOKENS", "1"),
        ("GEPP_AUDIT_BATCH_STATUSES", "in_progress,completed"),
        ("GEPP_AUDIT_BATCH_STATUSES", ","),
        ("GEPP_AUDIT_SEND_FIELDS", "notes"),
        ("GEPP_AUDIT_PRICES", "[1]"),
        ("GEPP_AUDIT_PRICES", '{"m": 1}'),
        ("GEPP_AUDIT_PRICES", '{"m": {"input": "1"}}'),
        ("GEPP_AUDIT_PRICES", '{"m": {"input": "1", "output": NaN}}'),
        ("GEPP_AUDIT_PRICES", '{"m": {"input": "1", "output": "-1"}}'),
        ("GEPP_AUDIT_LOG_FORMAT", "xml"),
        ("GEPP_AUDIT_PING_URL", "hc-ping.com/x"),
    ],
)
def test_a_wrong_value_is_refused_by_name(variable: str, wrong: str) -> None:
    told = refusal({variable: wrong})
    assert (told.code, told.exit_code) == ("wrong_settings", 1)
    assert told.message.startswith(f"a setting is wrong: {variable} (environment) must be ")


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("GEPP_AUDIT_CONCURRENCY", "1000", "concurrency", 1000),
        ("GEPP_AUDIT_MAX_SECONDS", " 55 ", "max_seconds", 55.0),
        ("GEPP_AUDIT_CALL_TIMEOUT", "0.5", "call_timeout", 0.5),
        ("GEPP_AUDIT_BATCH_STATUSES", "pending, in_progress,pending", "batch_statuses", ("pending", "in_progress")),
        ("GEPP_AUDIT_SEND_FIELDS", "driver_info,vehicle_info", "send_fields", {"driver_info", "vehicle_info"}),
        ("GEPP_AUDIT_LOG_FORMAT", "JSON", "log_format", "json"),
        ("GEPP_AUDIT_LOG_FILE", "logs/a.log", "log_file", NOWHERE / "logs/a.log"),
        ("GEPP_AUDIT_LOG_FILE", "/var/log/a.log", "log_file", Path("/var/log/a.log")),
        ("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1", "openai_base_url", "http://127.0.0.1:8000/v1"),
        ("GEPP_AUDIT_PRICES", PRICES, "prices", PRICES),
    ],
)
def test_a_right_value_is_taken(variable: str, text: str, name: str, value: object) -> None:
    assert getattr(settings({variable: text}), name) == value


def test_all_wrong_values_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GEPP_AUDIT_MAX_ATTEMPTS=x\n")
    told = refusal({"GEPP_AUDIT_CALL_TIMEOUT": "x"}, {"concurrency": 0}, tmp_path)
    assert told.message.startswith("3 settings are wrong:")
    assert [name in told.message for name in ("MAX_ATTEMPTS", "CALL_TIMEOUT", "(flag --concurrency)")] == [True] * 3
    assert told.exit_code == 1


def test_wrong_flags_alone_are_wrong_usage() -> None:
    assert refusal({}, {"concurrency": 0}).exit_code == 2


@given(st.dictionaries(st.sampled_from([row[0] for row in Settings().rows()]), st.text(max_size=30), max_size=4))
def test_any_text_is_either_taken_or_refused_in_words(environ: dict[str, str]) -> None:
    try:
        found, refused = settings(environ), None
    except OperatorError as error:
        found, refused = Settings(), error.code
    assert refused in (None, "wrong_settings")
    assert 1 <= found.concurrency <= 1000
    assert found.call_timeout > 0


@given(st.integers())
def test_exactly_the_whole_numbers_of_the_range_are_taken(number: int) -> None:
    environ = {"GEPP_AUDIT_MAX_ATTEMPTS": str(number)}
    if 1 <= number <= 100:
        assert settings(environ).max_attempts == number
    else:
        assert refusal(environ).code == "wrong_settings"


# -- what is missing -------------------------------------------------------------------------------------------------


def test_without_a_database_each_place_that_was_looked_at_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError) as caught:
        settings(cwd=tmp_path).require_database_url()
    assert (caught.value.code, caught.value.exit_code) == ("no_database_url", 1)
    assert caught.value.message == (
        f"DATABASE_URL is not set. Looked at the environment and {tmp_path / '.env'} (no such file)."
    )


def test_an_env_file_without_a_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("OPENAI_API_KEY=k\n")
    with pytest.raises(OperatorError, match=r"the environment and the env file .*conf\."):
        settings({}, {"env_file": "conf"}, tmp_path).require_database_url()


# -- the key ---------------------------------------------------------------------------------------------------------


def test_the_key_is_read_from_its_file_and_stripped(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\n sk-test-1 \n")
    found = settings({"OPENAI_API_KEY_FILE": "key"}, cwd=tmp_path)
    assert found.require_api_key() == "sk-test-1"
    assert found.origin("openai_api_key").source is Source.ENVIRONMENT


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read: No such file"),
        ("", "is empty"),
        ("a b", "one line of ASCII"),
        ("x" * 20_000, "more than"),
    ],
)
def test_a_key_file_without_a_key_stops_only_what_needs_the_key(content: str | None, why: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "key").write_text(content)
    found = settings({"OPENAI_API_KEY_FILE": "key", "DATABASE_URL": "sqlite:///x"}, cwd=tmp_path)
    assert found.require_database_url() == "sqlite:///x"
    with pytest.raises(OperatorError, match=why) as caught:
        found.require_api_key()
    assert caught.value.code == "no_api_key"
    assert str(tmp_path / "key") in caught.value.message


def test_without_any_key_the_places_are_named() -> None:
    with pytest.raises(OperatorError, match=r"OPENAI_API_KEY is not set\. Looked at the environment"):
        settings().require_api_key()


def test_the_stronger_of_key_and_key_file_wins(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("of-the-file")
    (tmp_path / ".env").write_text("OPENAI_API_KEY=of-the-env-file\n")
    assert settings({"OPENAI_API_KEY_FILE": "key"}, cwd=tmp_path).require_api_key() == "of-the-file"
    (tmp_path / ".env").write_text("OPENAI_API_KEY_FILE=key\n")
    assert settings({"OPENAI_API_KEY": "of-the-environment"}, cwd=tmp_path).require_api_key() == "of-the-environment"


def test_key_and_key_file_in_the_same_place_are_refused(tmp_path: Path) -> None:
    told = refusal({"OPENAI_API_KEY_FILE": "key", "OPENAI_API_KEY": "k"}, cwd=tmp_path)
    assert "OPENAI_API_KEY and OPENAI_API_KEY_FILE are both set (environment)" in told.message


# -- secrets ---------------------------------------------------------------------------------------------------------

SECRET_ENVIRON = {
    "DATABASE_URL": "postgresql://gepp:hush%40word@db1:5432/gepp?sslpassword=alsohush",
    "OPENAI_API_KEY": "sk-hushkey",
    "OPENAI_BASE_URL": "https://someone:hushproxy@host/v1",
    "GEPP_AUDIT_PING_URL": "https://hc.example/hush-uuid",
}


def test_no_secret_stands_in_any_form_of_the_settings() -> None:
    found = settings(SECRET_ENVIRON)
    told = f"{found!r} {found} {found.rows()} {found.database_url} {found.database_url!r} {found.openai_api_key}"
    assert "hush" not in told
    assert "postgresql://gepp:***@db1:5432/gepp" in told


def test_the_secrets_for_the_log_are_all_there_also_decoded() -> None:
    assert set(settings(SECRET_ENVIRON).secrets()) == {
        "hush%40word",
        "hush@word",
        "alsohush",
        "sk-hushkey",
        "hushproxy",
        "https://hc.example/hush-uuid",
    }


def test_a_wrong_secret_is_not_quoted() -> None:
    told = refusal({"DATABASE_URL": "hush://u:hush@h", "OPENAI_API_KEY": "hush hush", "OPENAI_BASE_URL": "hush"})
    assert "hush" not in str(told)


def test_a_secret_is_not_pickled() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(Secret("hush"))


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://u:p@h:5432/d", "postgresql://u:***@h:5432/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://u:p@p/p:p@h/d", "postgresql://u:***@h/d"),
        ("postgresql://h/d?user=u&password=p", "postgresql://h/d?user=u&password=***"),
        ("sqlite:////data/a@b.db", "sqlite:////data/a@b.db"),
        ("https://token@h/v1", "https://***@h/v1"),
        ("host=h password=p", "***"),
        ("", "***"),
    ],
)
def test_an_address_is_masked(url: str, masked: str) -> None:
    assert masked_url(url) == masked


@given(
    user=st.text(alphabet="abcXYZ._-", max_size=8),
    password=st.text(min_size=1, max_size=20).map(lambda text: f"§{text}§"),
    rest=st.sampled_from(["h/d", "h:1/d?x=1", "[::1]/d"]),
)
def test_a_password_never_survives_masking_whatever_is_in_it(user: str, password: str, rest: str) -> None:
    assert "§" not in masked_url(f"postgresql://{user}:{password}@{rest}")
