"""What the pages show, figure by figure: words in two languages, numbers, the chart, filters, batches, findings."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.database.history import BatchLine, Spent
from gepp_audit.database.verdicts import TransactionLine
from gepp_audit.model import ErrorCode, ItemState, Rule, RuleAction, RuleOutcome, SkipReason, VerdictStatus
from gepp_audit.queue.subject import Subject
from gepp_audit.web.pages import chart, figures, transaction_views, views
from gepp_audit.web.pages.chart import Day
from gepp_audit.web.pages.filters import STATUSES, VERDICTS, LineFilters, ListFilters
from gepp_audit.web.pages.words import LANGUAGES, TABLE, Words, preferred
from tests.support.processes import ROOT

PAGES = ROOT / "gepp_audit" / "web" / "pages"
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


# -- words -------------------------------------------------------------------------------------------------------------


def _places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_say_the_same_with_the_same_values() -> None:
    different = {name for name, (english, thai) in TABLE.items() if _places(english) != _places(thai)}
    empty = {name for name, texts in TABLE.items() if not all(text.strip() for text in texts)}
    untranslated = {name for name, (_, thai) in TABLE.items() if not re.search("[\u0e00-\u0e7f]", thai)}
    assert (different, empty, untranslated) == (set(), set(), {"product"})


def test_every_word_is_used_and_every_used_word_exists() -> None:
    sources = "\n".join(path.read_text() for path in [*PAGES.rglob("*.html"), *PAGES.glob("*.py")])
    asked = set(re.findall(r"""\b(?:t|words)\(['"](\w+)['"]""", sources))
    assert {name for name in asked if not name.endswith("_")} - set(TABLE) == set()
    quoted = set(re.findall(r"""['"](\w+)['"]""", sources.replace((PAGES / "words.py").read_text(), "")))
    outcomes = {outcome.value for outcome in RuleOutcome}
    by_kind = {name for name in TABLE if name.partition("_")[0] in ("field", "skip", "status", "effect", "notice")}
    assert set(TABLE) - quoted - by_kind - outcomes == set()


def test_every_code_that_a_page_may_show_has_words() -> None:
    words = Words("en")
    skips = [f"skip_{reason.value}" for reason in SkipReason]
    statuses = [f"status_{status}" for status in (*STATUSES, "deleted")]
    outcomes = [outcome.value for outcome in RuleOutcome]
    notices = [f"notice_{name}" for name in ("started", "nothing", "retried", "no_retry", "cancelled", "signed_out")]
    assert [name for name in (*skips, *statuses, *outcomes, *notices, *VERDICTS) if name not in TABLE] == []
    assert {status.value for status in VerdictStatus} <= set(VERDICTS)
    assert words.of("field", "of_a_newer_version") == "of a newer version"
    assert {ItemState.FAILED.value, ItemState.SKIPPED.value} <= set(VERDICTS)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("", "en"), ("th", "th"), ("th-TH,th;q=0.9,en;q=0.8", "th"), ("en-US,en;q=0.9,th;q=0.8", "en"),
        ("fr,th;q=0.3,en;q=0.2", "th"), ("de", "en"), ("th;q=0", "en"), ("th;q=x,en;q=0.1", "en"), ("*", "en"),
        (";;,,=", "en"), ("TH", "th"),
    ],
)  # fmt: skip
def test_the_language_is_the_one_a_browser_asks_for_first(asked: str, told: str) -> None:
    assert preferred(asked) == told


@given(st.text(max_size=80))
def test_no_header_breaks_the_choice_of_a_language(header: str) -> None:
    assert preferred(header) in LANGUAGES


# -- figures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "–"), (Decimal(0), "$0.00"), (Decimal("0.00001"), "< $0.0001"), (Decimal("0.00425"), "$0.0043"),
        (Decimal("0.99999"), "$1.0000"), (Decimal("1.005"), "$1.01"), (Decimal("12345.678"), "$12,345.68"),
    ],
)  # fmt: skip
def test_money_is_told_as_exactly_as_its_size_deserves(value: Decimal | None, told: str) -> None:
    assert figures.money(value) == told


@pytest.mark.parametrize(
    ("part", "whole", "told"), [(0, 0, 100), (0, 3, 0), (2, 3, 66), (999, 1000, 99), (3, 3, 100), (5, 3, 100)]
)
def test_a_share_is_full_only_where_nothing_is_left(part: int, whole: int, told: int) -> None:
    assert figures.percent(part, whole) == told


def test_a_moment_is_told_in_utc_for_people_and_programs() -> None:
    moment = datetime(2026, 1, 31, 19, 5, 9, tzinfo=UTC).astimezone()
    assert figures.moment(moment) == '<time datetime="2026-01-31T19:05:09Z">2026-01-31 19:05</time>'


# -- the chart ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**11)), min_size=1, max_size=90))
def test_every_bar_stands_within_the_chart_on_its_floor(tokens: list[tuple[int, int]]) -> None:
    days = [
        Day(day=date(2026, 1, 1) + timedelta(days=number), input=input_, output=output)
        for number, (input_, output) in enumerate(tokens)
    ]
    drawn = chart.drawn(days)
    right = 0.0
    for bar in drawn.bars:
        assert bar.x >= max(right, chart.LEFT)
        right = bar.x + bar.width
        assert bar.output_y >= chart.TOP - 0.1
        assert bar.input_y + bar.input_height == pytest.approx(drawn.floor, abs=0.02)
        assert bar.output_y + bar.output_height == pytest.approx(bar.input_y, abs=0.03)
    assert right <= drawn.width
    assert max(day.total for day in days) <= drawn.lines[-1].value


@given(st.integers(0, 10**15))
def test_the_scale_ends_at_a_round_figure_that_is_not_far_off(value: int) -> None:
    end = chart.ceiling(value)
    assert value <= end <= max(2 * value * 5 // 4, 2)
    assert str(end).rstrip("0") in ("1", "2", "4")
    assert chart.ceiling(end) == end


# -- filters -----------------------------------------------------------------------------------------------------------

_QUERY = st.dictionaries(
    st.sampled_from(["status", "from", "to", "before", "verdict", "rule", "after"]),
    st.one_of(st.text(max_size=50), st.dates().map(str), st.integers().map(str), st.sampled_from(STATUSES + VERDICTS)),
)


@given(_QUERY)
def test_whatever_stands_in_an_address_it_can_be_asked_of_the_database(query: dict[str, str]) -> None:
    filters, lines = ListFilters.read(query), LineFilters.read(query)
    wanted = filters.wanted(7)
    assert wanted.organizations == (7,)
    assert set(wanted.statuses) <= set(STATUSES)
    assert wanted.before is None or 0 < wanted.before < 2**31
    assert (lines.after or 0) < 2**31
    assert lines.wanted.verdicts <= set(VERDICTS)
    assert ListFilters.read(_query_of(filters.path())).wanted(7) == ListFilters.read(
        {name: value for name, value in query.items() if name != "before"}
    ).wanted(7)


def _query_of(path: str) -> Mapping[str, str]:
    from urllib.parse import parse_qsl, urlsplit

    return dict(parse_qsl(urlsplit(path).query))


def test_the_last_day_is_included() -> None:
    wanted = ListFilters.read({"from": "2026-01-30", "to": "2026-01-31"}).wanted(1)
    assert (wanted.since, wanted.until) == (datetime(2026, 1, 30, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))


# -- batches -----------------------------------------------------------------------------------------------------------


def _batch(**changes: object) -> BatchLine:
    values: dict[str, object] = {
        "audit_history_id": 3, "organization_id": 1, "status": "in_progress", "started_at": NOW - timedelta(minutes=5),
        "completed_at": None, "deleted": False, "triggered_by": None, "total": 10, "processed": 0, "approved": 0,
        "rejected": 0, "undecided": 0, "failed": 0, "skipped": 0, "open": True,
    }  # fmt: skip
    return BatchLine(**(values | changes))  # type: ignore[arg-type]


def test_an_open_batch_is_never_shown_as_done() -> None:
    view = views.batch_view(_batch(approved=8, rejected=2, processed=10), NOW)
    assert (view.done, view.percent, view.duration) == (10, 99, timedelta(minutes=5))


def test_what_was_skipped_counts_as_done() -> None:
    view = views.batch_view(
        _batch(status="completed", open=False, completed_at=NOW, approved=7, skipped=3, processed=7), NOW
    )
    assert (view.done, view.total, view.percent) == (10, 10, 100)
    assert [(part.verdict, part.x, part.width) for part in view.parts] == [
        ("approved", 0.0, 70.0),
        ("skipped", 70.0, 30.0),
    ]


def test_a_cancelled_batch_shows_how_far_it_came() -> None:
    view = views.batch_view(_batch(status="cancelled", deleted=True, open=False, approved=4, processed=4), NOW)
    assert (view.percent, view.withdrawn, view.duration) == (40, True, None)


def test_a_batch_that_another_program_ended_shows_what_that_told() -> None:
    line = _batch(
        status="completed", open=False, completed_at=NOW, processed=9, approved=6, rejected=2, undecided=None,
        failed=None, skipped=None,
    )  # fmt: skip
    view = views.batch_view(line, NOW)
    assert (view.done, view.tokens, view.undecided, view.failed) == (9, None, None, None)


@given(*(st.integers(0, 50) for _ in range(6)), st.booleans())
def test_the_parts_of_a_bar_fill_it_and_no_more(
    total: int, approved: int, rejected: int, undecided: int, failed: int, skipped: int, open_: bool
) -> None:
    line = _batch(
        total=total, approved=approved, rejected=rejected, undecided=undecided, failed=failed, skipped=skipped,
        open=open_, processed=approved + rejected + undecided + failed,
    )  # fmt: skip
    view = views.batch_view(line, NOW)
    assert sum(part.width for part in view.parts) <= 100.01
    assert 0 <= view.percent <= 100
    assert view.done <= view.total


# -- findings ----------------------------------------------------------------------------------------------------------

_RULES = {
    "DC-01": Rule(
        rule_id="DC-01",
        rule_type="accuracy",
        name="Weights agree",
        actions=(RuleAction(type="system_action", action="reject"),),
    ),
    "DC-02": Rule(rule_id="DC-02", rule_type="accuracy", name="Prices are usual"),
}
_SUBJECT = Subject(
    transaction_id=5,
    fields={"transaction_id": "5", "weight_kg": "74", "notes": "weighed at the gate", "images_not_shown": 2},
    records={51: {"record_id": 51, "material": "PET", "origin_weight_kg": "45.8", "notes": None}},
)


def _line(**changes: object) -> TransactionLine:
    return TransactionLine(**({"transaction_id": 5, "status": "rejected", "verdict": "rejected"} | changes))  # type: ignore[arg-type]


def _finding(rule_id: str, *evidence: Mapping[str, object]) -> dict[str, object]:
    return {"rule_id": rule_id, "reason": "because", "evidence": list(evidence)}


def test_evidence_stands_beside_the_record_it_quotes() -> None:
    line = _line(
        rules={"DC-01": "fail"},
        rejected_by=("DC-01",),
        findings=(
            _finding(
                "DC-01",
                {"record_id": 51, "field": "origin_weight_kg", "value": "45.80"},
                {"record_id": None, "field": "notes", "value": "gate"},
                {"record_id": 77, "field": "unit", "value": "kg"},
            ),
        ),
    )
    view = views.line_view(line, _RULES, _SUBJECT)
    itself, record, gone = transaction_views.parts_of(view, _SUBJECT)
    assert [(one.name, one.then) for one in itself.fields if one.rules] == [("notes", [])]
    assert [(one.name, one.then) for one in record.fields if one.rules] == [("origin_weight_kg", [])]
    assert (record.name, gone.record_id, gone.gone, gone.fields[0].value) == ("PET", 77, True, "kg")
    assert [part.quotes[0].rule_name for part in (itself, record, gone)] == ["Weights agree"] * 3


@pytest.mark.parametrize(
    ("field", "quoted", "changed"),
    [
        ("weight_kg", "74.000", False), ("weight_kg", "7", True), ("weight_kg", "x", True), ("notes", "gate", False),
        ("notes", "Gate", True), ("arrival_date", "null", False), ("images_not_shown", "2", False),
    ],
)  # fmt: skip
def test_a_quote_that_does_not_stand_there_any_more_is_told(field: str, quoted: str, changed: bool) -> None:
    subject = Subject(transaction_id=5, fields={**_SUBJECT.fields, "arrival_date": None}, records={})
    evidence = {"record_id": None, "field": field, "value": quoted}
    line = _line(rules={"DC-01": "fail"}, rejected_by=("DC-01",), findings=(_finding("DC-01", evidence),))
    [itself] = transaction_views.parts_of(views.line_view(line, _RULES, subject), subject)
    [found] = [one for one in itself.fields if one.rules]
    assert (found.name, bool(found.then)) == (field, changed)


def test_what_a_rule_does_to_the_verdict_is_told_and_what_rejects_comes_first() -> None:
    line = _line(
        verdict="rejected",
        rules={"DC-02": "fail", "DC-03": "cannot_tell", "DC-01": "cannot_tell", "DC-09": "fail"},
        rejected_by=("DC-09",),
        warned_by=("DC-02", "DC-03", "DC-01"),
        findings=(_finding("DC-02"),),
    )
    view = views.line_view(line, _RULES, None)
    told = [(one.rule_id, one.effect, one.kind, one.reason) for one in view.findings]
    assert told == [
        ("DC-09", "rejects", "bad", ""), ("DC-02", "warns", "warn", "because"), ("DC-03", "warns", "warn", ""),
        ("DC-01", "undecides", "warn", ""),
    ]  # fmt: skip


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
            st.sampled_from(["rule_id", "reason", "evidence", "record_id", "field", "value"]), inner, max_size=4
        ),
        max_leaves=20,
    )
)  # fmt: skip
def test_findings_of_any_form_can_be_shown(told: object) -> None:
    findings = tuple(one for one in told if isinstance(one, dict)) if isinstance(told, list) else ()
    view = views.line_view(_line(findings=findings), _RULES, _SUBJECT)
    assert len(transaction_views.parts_of(view, _SUBJECT)) >= 2


def test_a_failure_is_no_rejection() -> None:
    view = views.line_view(_line(verdict="failed", error_code=ErrorCode.TIMEOUT.value, error="no answer"), {}, None)
    assert (view.kind, view.plain, view.tokens, view.cost) == ("fail", False, None, None)


def test_tokens_of_a_transaction_without_a_known_price_have_no_cost() -> None:
    view = views.line_view(_line(spent=Spent(calls=1, input_tokens=5, output_tokens=6, unpriced=1)), {}, None)
    assert (view.tokens, view.cost) == (11, None)


def test_no_template_turns_escaping_off_or_holds_a_style_or_a_script_of_its_own() -> None:
    wrong = re.compile(r"\|\s*safe|autoescape|<script(?! src=)|\sstyle=|<style|\son\w+=|https?://")
    assert [path.name for path in _templates() if wrong.search(path.read_text())] == []
    assert "http" not in (PAGES / "static" / "page.js").read_text()
    assert "url(" not in (PAGES / "static" / "page.css").read_text()


def _templates() -> list[Path]:
    found = sorted((PAGES / "templates").glob("*.html"))
    assert found
    return found
