"""Settings of the function that stand in AWS's own stores: fetched with boto3 over HTTP, and kept while they work."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from sqlalchemy import make_url

from gepp_audit.aws_lambda import references
from gepp_audit.errors import OperatorError
from tests.support.aws_stores import Stores, running_stores
from tests.support.lambda_runtime import Lambda
from tests.support.platforms import Platform
from tests.support.processes import Programs, Simulator
from tests.support.queues import CLEAN, SampleQueue, connect
from tests.support.secrets import TEST_API_KEY, TEST_DB_PASSWORD


@pytest.fixture
def stores() -> Iterator[Stores]:
    """The Systems Manager and the Secrets Manager."""
    with running_stores() as stores:
        yield stores


def rds(platform: Platform, password: str) -> str:
    """A secret as RDS keeps it."""
    url = platform.database.engine.url
    return json.dumps(
        {"engine": "postgres", "host": url.host, "port": url.port, "username": url.username, "password": password}
    )


@pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
def test_what_the_stores_hold_is_fetched_once_and_again_when_a_password_or_key_is_refused(
    platform: Platform, aws_lambda: Lambda, programs: Programs, simulator: Simulator, stores: Stores
) -> None:
    """The password is changed behind a warm sandbox, and so is the key."""
    connect(programs, platform, simulator)
    queue = SampleQueue(platform)
    url = queue.platform.database.engine.url
    for name in ("DATABASE_URL", "OPENAI_API_KEY"):
        del programs.environ[name]
    aws_lambda.environ |= {
        **stores.environ,
        "DATABASE_URL": f"postgresql://{url.host}:{url.port}/{url.database}",
        "DATABASE_URL_SECRET": "gepp/database",
        "OPENAI_API_KEY_SECRET": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:gepp/openai#key",
        "GEPP_AUDIT_MODEL_SSM": "/gepp/model",
    }
    names = ["gepp/database", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:gepp/openai", "/gepp/model"]
    stores.entries |= {
        names[0]: rds(queue.platform, "an-old-password"),
        names[1]: json.dumps({"key": "sk-an-old-key"}),
        names[2]: "gpt-5-mini",
    }
    sandbox = aws_lambda.sandbox()
    refused = sandbox.invoke().raised()
    assert "user or password refused" in refused
    assert "an-old-password" not in refused + sandbox.process.stderr
    assert stores.asked == names * 2

    stores.asked.clear()
    stores.entries[names[0]] = rds(queue.platform, TEST_DB_PASSWORD)
    queue.queue(CLEAN)
    blocked = sandbox.invoke().raised()
    assert blocked.startswith("the provider refuses all calls (key_rejected): ")
    assert "Put a valid key into OPENAI_API_KEY" in blocked
    assert [one["event"] for one in sandbox.events("settings_fetched_again")] == ["settings_fetched_again"]
    assert stores.asked == names

    stores.asked.clear()
    stores.entries[names[1]] = json.dumps({"key": TEST_API_KEY})
    queue.platform.execute("UPDATE gepp_audit_limits SET blocked_until = clock_timestamp()")
    assert sandbox.invoke().returned()["batches"]["completed"] == 1
    assert stores.asked == names
    assert [call["model"] for call in simulator.calls()][-2:] == ["gpt-5-mini"] * 2
    assert sandbox.invoke().returned()["outcome"] == "idle"
    assert stores.asked == names
    queue.assert_all_settled()


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        (
            {"OPENAI_API_KEY_SSM": "/missing"},
            "cannot read the parameter /missing (OPENAI_API_KEY_SSM): ParameterNotFound. Create it in the function's "
            "region and account, or correct OPENAI_API_KEY_SSM.",
        ),
        (
            {"OPENAI_API_KEY_SECRET": "kept/away"},
            "cannot read the secret kept/away (OPENAI_API_KEY_SECRET): AccessDeniedException. Give the function's role "
            "secretsmanager:GetSecretValue on it (and kms:Decrypt on its key, if that is one of your own).",
        ),
        (
            {"OPENAI_API_KEY_SECRET": "a/secret#no-such-key"},
            "a setting is wrong: OPENAI_API_KEY_SECRET names the key no-such-key of a JSON secret, and a/secret has no "
            "such key. Correct OPENAI_API_KEY_SECRET or the secret.",
        ),
        (
            {"OPENAI_API_KEY_SECRET": "a/secret", "OPENAI_API_KEY_SSM": "/a"},
            "a setting is wrong: OPENAI_API_KEY_SSM and OPENAI_API_KEY_SECRET are both set. Keep one of them.",
        ),
        (
            {"GEPP_AUDIT_MODEL": "m", "GEPP_AUDIT_MODEL_SSM": "/a"},
            "a setting is wrong: GEPP_AUDIT_MODEL and GEPP_AUDIT_MODEL_SSM are both set. Keep one of them.",
        ),
        (
            {"DATABASE_URL_SECRET": "a/secret"},
            "a setting is wrong: DATABASE_URL_SECRET names a secret with username and password, and where the database "
            "is stands neither in it nor in DATABASE_URL. Set DATABASE_URL=postgresql://HOST:PORT/NAME?sslmode=require"
            ", without a user.",
        ),
    ],
)
def test_a_reference_that_leads_nowhere_is_told_with_what_to_do(
    environ: dict[str, str], told: str, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    references.forget()
    stores.entries |= {"a/secret": json.dumps({"username": "u", "password": TEST_DB_PASSWORD}), "/a": "x"}
    stores.forbidden.add("kept/away")
    for name, value in {**stores.environ, "AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "eu-central-1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OperatorError) as raised:
        references.resolved(environ)
    assert f"{raised.value.message} {raised.value.fix}" == told


def test_the_address_of_an_rds_secret_keeps_every_character_of_the_password(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    references.forget()
    secret = {"username": "a user", "password": "p@ss/w:rd?#%é", "host": "db.example", "port": 6432, "dbname": "ge pp"}
    stores.entries["rds"] = json.dumps(secret)
    for name, value in {**stores.environ, "AWS_DEFAULT_REGION": "eu-central-1"}.items():
        monkeypatch.setenv(name, value)
    found = references.resolved({"DATABASE_URL_SECRET": "rds", "DATABASE_URL": "postgresql://h/n?sslmode=require"})
    url = make_url(found["DATABASE_URL"])
    assert (url.username, url.password, url.host, url.port) == ("a user", "p@ss/w:rd?#%é", "db.example", 6432)
    assert (url.database, dict(url.query)) == ("ge pp", {"sslmode": "require"})
