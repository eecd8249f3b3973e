"""Usage: what calls used and cost by day, organization and model, and how people decided on what was audited."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert

from gepp_audit.database.agreement import Agreement
from gepp_audit.database.retention import prune
from gepp_audit.database.tables import calls, usage_daily
from gepp_audit.database.usage import By, Key, Period, Used, used
from gepp_audit.errors import OperatorError
from gepp_audit.queue.usage import UsageReport, usage
from tests.support import steps
from tests.support.platforms import Platform

TODAY = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)


def record(platform: Platform, *rows: dict[str, Any]) -> None:
    """Ledger rows, each a full call unless it says otherwise."""
    usual = {
        "run_id": "r", "audit_history_id": 1, "transaction_id": 1, "organization_id": 1, "engine": "openai",
        "model": "m", "model_answered": None, "prompt_version": "1", "dispatched_at": TODAY, "outcome": "verdict",
        "input_tokens": 100, "cached_tokens": 60, "cache_write_tokens": 0, "output_tokens": 20, "reasoning_tokens": 5,
        "cost": Decimal("0.00012345"),
    }  # fmt: skip
    values = [{**usual, **row} for row in rows]
    platform.database.write(lambda connection: connection.execute(insert(calls), values) and None)


#: a run of the tests may go on past midnight
TOMORROW = TODAY.date() + timedelta(days=1)


def told(platform: Platform, by: By = By.DAY, **more: Any) -> UsageReport:
    return usage(platform.database, by, **{"until": TOMORROW, **more})


def by_key(report: UsageReport) -> dict[Any, Used]:
    return {row.key: row.used for row in report.rows}


def test_every_call_that_left_counts_on_its_utc_day(platform: Platform) -> None:
    midnight = TODAY.replace(hour=0)
    record(
        platform,
        {},
        {"outcome": "superseded"},
        {"outcome": "retry", "cost": None, **dict.fromkeys(UNKNOWN)},
        {"outcome": "answer", "cost": Decimal("0.00000001")},
        {"outcome": "released", **dict.fromkeys(UNKNOWN), "cost": None},
        {"outcome": None, **dict.fromkeys(UNKNOWN), "cost": None},
        {"dispatched_at": midnight},
        {"dispatched_at": midnight - timedelta(microseconds=1)},
    )
    today = Used(
        calls=6, failed_calls=2, open_calls=1, input_tokens=400, cached_tokens=240, output_tokens=80,
        reasoning_tokens=20, cost=Decimal("0.00037036"),
    )  # fmt: skip
    yesterday = Used(
        calls=1, input_tokens=100, cached_tokens=60, output_tokens=20, reasoning_tokens=5, cost=Decimal("0.00012345")
    )
    report = told(platform)
    assert by_key(report) == {(TODAY - timedelta(days=1)).date(): yesterday, TODAY.date(): today}
    assert [row.key for row in report.rows] == sorted(by_key(report))
    assert report.total.used == today + yesterday
    assert report.total.cache_hit_rate == 0.6


UNKNOWN = ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


def test_money_that_is_not_known_is_counted_and_not_taken_for_none(platform: Platform) -> None:
    record(platform, {"cost": None}, {"cost": None, "model": "other"}, {})
    report = told(platform, By.MODEL)
    assert {row.key: (row.cost, row.used.unpriced_calls) for row in report.rows} == {
        "m": (Decimal("0.00012345"), 1),
        "other": (None, 1),
    }
    assert (report.total.cost, report.total.used.unpriced_calls) == (Decimal("0.00012345"), 2)


def test_organizations_and_models_come_by_their_cost(platform: Platform) -> None:
    cheap, dear = platform.organization(), platform.organization()
    record(
        platform,
        {"organization_id": dear, "cost": Decimal("0.1")},
        {"organization_id": cheap, "cost": Decimal("0.25"), "model_answered": "m-2026"},
        {"organization_id": dear, "cost": Decimal("0.2"), "model_answered": "m-2026"},
    )
    assert [(row.key, row.cost) for row in told(platform, By.ORGANIZATION).rows] == [
        (dear, Decimal("0.3")),
        (cheap, Decimal("0.25")),
    ]
    assert [(row.key, row.cost) for row in told(platform, By.MODEL).rows] == [
        ("m-2026", Decimal("0.45")),
        ("m", Decimal("0.1")),
    ]
    one = told(platform, By.MODEL, organizations=(cheap,))
    assert [(row.key, row.used.calls) for row in one.rows] == [("m-2026", 1)]


def test_a_period_has_both_of_its_days(platform: Platform) -> None:
    record(platform, *({"dispatched_at": TODAY - timedelta(days=days)} for days in range(35)))
    day = TODAY.date()

    def days(**period: Any) -> tuple[date, date, int]:
        report = told(platform, **period)
        return report.period.since, report.period.until, report.total.used.calls

    usual = usage(platform.database).period
    assert usual.until - usual.since == timedelta(days=29)
    assert days(until=day) == (day - timedelta(days=29), day, 30)
    assert days(since=day - timedelta(days=2), until=day) == (day - timedelta(days=2), day, 3)
    assert days(since=day - timedelta(days=34), until=day - timedelta(days=30))[2] == 5
    assert days(since=date.min, until=date.max)[2] == 35
    with pytest.raises(OperatorError, match=r"ends .* before it begins") as caught:
        told(platform, since=day, until=day - timedelta(days=1))
    assert caught.value.exit_code == 2


def test_its_json_has_every_figure(platform: Platform) -> None:
    record(platform, {})
    data = told(platform, By.ORGANIZATION).as_json()
    figures = {
        "calls": 1, "failed_calls": 0, "open_calls": 0, "input_tokens": 100, "cached_tokens": 60,
        "cache_write_tokens": 0, "output_tokens": 20, "reasoning_tokens": 5, "total_tokens": 120, "cache_hit_rate": 0.6,
        "cost_usd": Decimal("0.00012345"), "unpriced_calls": 0, "audited_transactions": 1,
        "people_agreed": 0 if platform.is_new else None, "people_rejected_approved": 0, "people_approved_rejected": 0,
        "people_decided_undecided": 0, "agreement_rate": None,
    }  # fmt: skip
    assert data == {
        "by": "organization", "since": (TOMORROW - timedelta(days=29)).isoformat(),
        "until": TOMORROW.isoformat(), "rows": [{"organization_id": 1} | figures], "total": figures,
    }  # fmt: skip


def test_without_a_call_there_is_nothing_to_tell(platform: Platform) -> None:
    report = told(platform)
    assert (report.rows, report.total.used, report.total.agreement) == ((), Used(), Agreement())


OUTCOMES = ("verdict", "superseded", "retry", "answer", "item", "block", "abandoned", "expired", "released")
tokens = st.one_of(st.none(), st.integers(0, 100_000))
old_call = st.fixed_dictionaries(
    {
        "dispatched_at": st.integers(0, 3 * 86_400).map(lambda s: TODAY - timedelta(days=95, seconds=s)),
        "organization_id": st.integers(1, 2),
        "model": st.sampled_from(["m", "n"]),
        "model_answered": st.sampled_from([None, "m-2026"]),
        "outcome": st.sampled_from(OUTCOMES),
        **dict.fromkeys(UNKNOWN, tokens),
        "cost": st.one_of(st.none(), st.decimals(0, 10, places=8)),
    }
)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(old_call, min_size=1, max_size=20))
def test_rolling_days_up_changes_no_figure(platform: Platform, rows: Sequence[dict[str, Any]]) -> None:
    platform.database.write(lambda connection: connection.execute(delete(calls)) and None)
    platform.database.write(lambda connection: connection.execute(delete(usage_daily)) and None)
    record(platform, *rows)

    def sums() -> list[dict[Key, Used]]:
        period = Period(since=TODAY.date() - timedelta(days=100), until=TODAY.date())
        return platform.database.read(lambda connection: [used(connection, by, period) for by in By])

    before = sums()
    for most in (3, 5, 500):  # the first two leave days half rolled up
        platform.database.write(lambda connection, most=most: prune(connection, ("in_progress",), most=most))  # type: ignore[misc] # bound now
        assert sums() == before
    assert platform.value("SELECT count(*) FROM gepp_audit_calls") == 0


# -- people ------------------------------------------------------------------------------------------------------------


def audited(platform: Platform, organization: int, *outcomes: str) -> list[int]:
    ids = platform.transactions(organization, len(outcomes))
    platform.batch(organization, ids)
    steps.take_up(platform)
    claims = steps.claim(platform)
    settled = [steps.verdict(platform, one, outcome) for one, outcome in zip(claims, outcomes, strict=True)]
    steps.settle_all(platform, settled)
    steps.write_back(platform)
    steps.close_all(platform)
    return ids


def decide(platform: Platform, id_: int, status: str) -> None:
    """A person decides, as this version of the platform writes it."""
    flag = ", is_user_audit = true" if platform.is_new else ""
    platform.execute(f"UPDATE transactions SET status = :status{flag} WHERE id = :id", status=status, id=id_)


def people(report: UsageReport) -> tuple[int | None, int, int, int]:
    found = report.total.agreement
    return found.agreed, found.approvals_overruled, found.rejections_overruled, found.undecided_settled


OUTCOMES_OF_SIX = ("approved", "approved", "rejected", "rejected", "no_action", "approved")


def test_what_people_decided_otherwise_is_counted(platform: Platform) -> None:
    platform.rule()
    organization = platform.organization(allow_ai_audit=False)
    ids = audited(platform, organization, *OUTCOMES_OF_SIX)
    for id_, status in zip(
        ids, ("approved", "rejected", "approved", "rejected", "approved", "in_progress"), strict=True
    ):
        decide(platform, id_, status)
    report = told(platform, By.ORGANIZATION)
    # an older platform does not tell who set a status, so agreement proves nothing there
    assert people(report) == (2 if platform.is_new else None, 1, 1, 1)
    assert report.total.agreement.audited == 6
    assert report.total.agreement.rate == (0.5 if platform.is_new else None)
    assert [(row.key, row.agreement.overruled) for row in report.rows] == [(organization, 2)]
    assert told(platform, By.DAY).rows[0].agreement == report.total.agreement
    assert told(platform, By.MODEL).rows[0].key == "m-1-2026"


def test_what_the_audit_itself_decided_is_no_persons_word(platform: Platform) -> None:
    platform.rule()
    audited(platform, platform.organization(allow_ai_audit=True), *OUTCOMES_OF_SIX)
    assert people(told(platform)) == (0 if platform.is_new else None, 0, 0, 0)


@pytest.mark.parametrize("platform", ["sqlite", "postgresql-new"], indirect=True)
def test_a_persons_own_row_counts_before_the_status_that_came_later(platform: Platform) -> None:
    platform.rule()
    organization = platform.organization()
    rejected, approved = audited(platform, organization, "rejected", "approved")
    for id_, word in ((rejected, "approved"), (approved, "approved")):
        decide(platform, id_, "completed")
        values = {"transaction": id_, "organization": organization, "word": word, "notes": json.dumps({})}
        platform.execute(
            "INSERT INTO transaction_audits (transaction_id, organization_id, audit_notes, by_human, audit_type,"
            " audit_status, is_active) VALUES (:transaction, :organization, :notes, true, 'manual', :word, true)",
            **values,
        )
    # what the audit said stands in its row, whatever the label became
    platform.execute("UPDATE transactions SET ai_audit_status = 'null'")
    assert people(told(platform)) == (1, 0, 1, 0)


def test_a_transaction_counts_once_by_its_last_verdict(platform: Platform) -> None:
    platform.rule()
    organization = platform.organization(allow_ai_audit=False)
    [id_] = audited(platform, organization, "rejected")
    platform.execute("UPDATE transactions SET ai_audit_status = 'queued'")
    platform.batch(organization, [id_])
    steps.take_up(platform)
    steps.settle_all(platform, [steps.verdict(platform, one) for one in steps.claim(platform)])
    steps.write_back(platform)
    decide(platform, id_, "approved")
    report = told(platform)
    assert (report.total.agreement.audited, people(report)) == (1, (1 if platform.is_new else None, 0, 0, 0))
