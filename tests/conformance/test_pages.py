"""What the pages read and change, on each database: the whole application in this process, without a socket."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path

import jwt
import pytest
from starlette.testclient import TestClient

from gepp_audit import settings
from gepp_audit.database.history import BatchFilter, newest
from gepp_audit.queue import subject
from gepp_audit.web.app import create_app
from tests.support.pages import rejected_by, told_batch
from tests.support.platforms import Platform
from tests.support.secrets import TEST_JWT_SECRET
from tests.support.steps import claim, failure, settle_all, take_up, verdict, write_back


@contextmanager
def _signed_in(platform: Platform, organization: int, tmp_path: Path) -> Iterator[TestClient]:
    environ = {"DATABASE_URL": platform.url, "GEPP_AUDIT_JWT_SECRET": TEST_JWT_SECRET}
    claims = {"user_id": 1, "organization_id": organization, "type": "auth", "exp": int(time.time()) + 600}
    session = jwt.encode(claims, TEST_JWT_SECRET, algorithm="HS256")
    app = create_app(settings.load({}, environ, tmp_path))
    with TestClient(app, base_url="http://127.0.0.1", cookies={"gepp_audit_session": session}) as client:
        yield client


def _text(client: TestClient, path: str) -> str:
    reply = client.get(path)
    assert reply.status_code == 200, (path, reply.status_code)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", reply.text)).split())


def _post(client: TestClient, page: str, path: str) -> str:
    [proof, *_] = re.findall(r'name="csrf" value="([^"]+)"', client.get(page).text)
    reply = client.post(path, data={"csrf": proof}, follow_redirects=False)
    assert reply.status_code == 303, (path, reply.text)
    return reply.headers["location"]


def test_a_batch_is_shown_while_it_runs_and_after_it_has_been_cancelled(platform: Platform, tmp_path: Path) -> None:
    organization = platform.organization()
    platform.rule("DC-01", name="น้ำหนักต้องตรง")
    ids = platform.transactions(organization, 5)
    batch = platform.batch(organization, ids)
    take_up(platform)
    claims = claim(platform, 3)
    settle_all(platform, [verdict(platform, claims[0]), verdict(platform, claims[1], "rejected"), failure(claims[2])])
    write_back(platform)
    with _signed_in(platform, organization, tmp_path) as client:
        history = _text(client, "/history")
        assert f"Batch {batch} In progress 3 of 5 1 1 0 1 240" in history
        shown = _text(client, f"/history/{batch}")
        assert "60 %" in shown
        assert "2 Waiting" in shown
        rejected = _text(client, f"/history/{batch}?verdict=rejected")
        assert f"Transaction {ids[1]} Rejected DC-01 น้ำหนักต้องตรง Broken · Rejects" in rejected
        assert f"Transaction {ids[0]} " not in rejected
        failed = _text(client, f"/history/{batch}?verdict=failed")
        assert "policy_violation Refused by the provider's policy." in failed
        one = _text(client, f"/history/{batch}/transactions/{ids[1]}")
        assert f"Record {ids[1] * 10}" in one
        assert "2026-01-02T03:04:05Z" in one
        location = _post(client, f"/history/{batch}", f"/history/{batch}/cancel")
        assert "is cancelled" in _text(client, location)
        assert f'id="batch-{batch}"' not in client.get("/history").text
        assert f"Batch {batch} Cancelled" in _text(client, "/history?status=cancelled")
    labels = platform.labels(ids)
    assert (labels[ids[0]], labels[ids[1]], labels[ids[3]], labels[ids[4]]) == ("approved", "rejected", "null", "null")


def test_what_failed_is_queued_again_as_a_batch_of_its_own(platform: Platform, tmp_path: Path) -> None:
    organization = platform.organization()
    platform.rule()
    [id_] = platform.transactions(organization, 1)
    batch = platform.batch(organization, [id_])
    take_up(platform)
    settle_all(platform, [failure(one) for one in claim(platform)])
    write_back(platform)
    with _signed_in(platform, organization, tmp_path) as client:
        platform.execute(
            "UPDATE transaction_audit_history SET status = 'completed', completed_at = started_at WHERE id = :id",
            id=batch,
        )
        platform.execute("UPDATE gepp_audit_batches SET closed_at = started_at, outcome = 'completed'")
        location = _post(client, f"/history/{batch}", f"/history/{batch}/retry")
        assert re.fullmatch(r"/history/(\d+)\?notice=retried&batch=\1", location)
        assert "What failed is queued again" in _text(client, location)
        again = _post(client, f"/history/{batch}", f"/history/{batch}/retry")
        assert "Nothing of this batch can be asked again" in _text(client, again)
    assert platform.labels([id_]) == {id_: "queued"}


def test_days_and_reasons_of_ended_batches_are_read_back(platform: Platform, tmp_path: Path) -> None:
    organization, other = platform.organization(), platform.organization()
    platform.rule("DC-01")
    ids = platform.transactions(organization, 2, status="null")
    foreign = platform.transactions(other, 1, status="null")
    reason = rejected_by("DC-01", "เพราะว่า", {"record_id": ids[0] * 10, "field": "unit", "value": "kg"})
    batches = [told_batch(platform, organization, ids[:1], reason, days_ago=days) for days in (0, 3, 9)]
    told_batch(platform, other, foreign, reason)

    def found(since: int | None, until: int | None) -> list[int]:
        today = datetime.now(UTC)
        wanted = BatchFilter(
            organizations=(organization,),
            since=None if since is None else today - timedelta(days=since),
            until=None if until is None else today - timedelta(days=until),
        )
        lines = platform.database.read(lambda connection: newest(connection, 10, wanted))
        return sorted(line.audit_history_id for line in lines)

    assert found(None, None) == batches
    assert (found(None, 2), found(5, 2), found(5, None)) == (batches[1:], [batches[1]], batches[:2])
    about = subject.subjects(platform.database, [*ids, *foreign], organization, frozenset())
    assert sorted(about) == ids
    with _signed_in(platform, organization, tmp_path) as client:
        one = _text(client, f"/history/{batches[0]}/transactions/{ids[0]}")
        assert "เพราะว่า" in one
        assert "Unit kg DC-01" in one
        assert "$0.0043" in _text(client, "/history")
        assert "No token was used" in _text(client, "/history/usage")


def test_a_database_that_is_out_of_reach_is_a_page_that_says_so(tmp_path: Path, embedded_template: Path) -> None:
    path = tmp_path / "gone.db"
    path.write_bytes(embedded_template.read_bytes())
    platform = Platform(f"sqlite:///{path}", "embedded")
    with _signed_in(platform, 1, tmp_path) as client:
        path.write_bytes(b"no database at all" * 400)
        reply = client.get("/history")
        assert reply.status_code == 503
        assert "Something went wrong here" in reply.text
        assert str(path) not in reply.text


@pytest.mark.parametrize("path", ["/history", "/sign-in"])
def test_without_tokens_the_first_organization_is_shown(tmp_path: Path, embedded_template: Path, path: str) -> None:
    database = tmp_path / "dev.db"
    database.write_bytes(embedded_template.read_bytes())
    platform = Platform(f"sqlite:///{database}", "embedded")
    platform.organization()
    platform.close()
    app = create_app(settings.load({}, {"DATABASE_URL": platform.url}, tmp_path), dev=True)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        text = _text(client, path)
        assert "Organization 1" in text
        assert "Development mode" in text
        assert "Sign out" not in text
        assert _post(client, "/history", "/history/start") == "/history?notice=nothing"
