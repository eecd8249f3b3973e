"""The Audit History page over real HTTP, without a browser: who may see it, which forms it takes, what it says."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.pages import Visit, rejected_by, text_of, told_batch
from tests.support.platforms import Platform
from tests.support.processes import Programs
from tests.support.secrets import TEST_JWT_SECRET
from tests.support.web import Served, serving, token

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)>\" onmouseover='alert(3)'"


@dataclass(frozen=True, kw_only=True)
class World:
    """A server, its database, and three organizations: with an evil history, with an open batch, with nothing."""

    served: Served
    platform: Platform
    evil: int
    other: int
    empty: int
    transactions: list[int]
    #: of `evil`, ended
    batch: int
    #: of `other`, open
    open_batch: int

    def visit(self, organization: int | None = None, **headers: str) -> Visit:
        """A browser, signed in for `organization`."""
        visit = Visit(served=self.served, headers=headers)
        if organization is not None:
            assert visit.sign_in(token(organization)).status == 303
        return visit


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, embedded_template: Path) -> Iterator[World]:
    """One server for all tests; each changes only what is its own."""
    home = tmp_path_factory.mktemp("pages")
    (home / "platform.db").write_bytes(embedded_template.read_bytes())
    platform = Platform(f"sqlite:///{home}/platform.db", "embedded")
    evil, other, empty = (platform.organization() for _ in range(3))
    platform.execute("UPDATE organizations SET name = :name WHERE id = :id", name=f"Evil {ATTACK}", id=evil)
    platform.rule("DC-01", name=f"Rule {ATTACK}")
    transactions = platform.transactions(evil, 30, status="null", notes=f"Note {ATTACK}")
    first = transactions[0]
    note = rejected_by(
        "DC-01",
        f"Reason {ATTACK}",
        {"record_id": first * 10, "field": "origin_weight_kg", "value": "6.25"},
        {"record_id": None, "field": "notes", "value": f"Note {ATTACK}"},
        {"record_id": None, "field": "weight_kg", "value": "99"},
        {"record_id": ATTACK, "field": ATTACK, "value": ATTACK},
    )
    batch = told_batch(platform, evil, transactions, note)
    open_batch = platform.batch(other, platform.transactions(other, 3))
    with Programs(home=home) as programs, serving(programs, DATABASE_URL=platform.url) as served:
        yield World(
            served=served,
            platform=platform,
            evil=evil,
            other=other,
            empty=empty,
            transactions=transactions,
            batch=batch,
            open_batch=open_batch,
        )
    platform.close()


def _pages(world: World) -> list[str]:
    batch, first = world.batch, world.transactions[0]
    return ["/history", "/history/usage", f"/history/{batch}", f"/history/{batch}/transactions/{first}"]


# -- who may see it ----------------------------------------------------------------------------------------------------


def test_nobody_sees_a_page_without_signing_in(world: World) -> None:
    for path in [*_pages(world), f"/history/{world.open_batch}/cancel"]:
        reply = world.visit().get(path)
        assert (reply.status, reply.headers["location"]) == (303, f"/sign-in?next={path}")


def test_whoever_signs_in_comes_to_the_page_they_asked_for(world: World) -> None:
    visit = world.visit()
    asked = visit.get(f"/history/{world.batch}?verdict=rejected")
    visit.follow(asked)
    reply = visit.post("/sign-in", {"token": f"Bearer {token(world.evil)} ", "next": f"/history/{world.batch}"})
    assert reply.headers["location"] == f"/history/{world.batch}"
    assert visit.follow(reply).status == 200


@pytest.mark.parametrize(
    "goal",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "/history\\..//evil", "/historyevil", "/api/x"],
)
def test_nobody_is_sent_to_another_site_after_signing_in(world: World, goal: str) -> None:
    visit = world.visit()
    visit.get("/sign-in")
    reply = visit.post("/sign-in", {"token": token(world.evil), "next": goal})
    assert (reply.status, reply.headers["location"]) == (303, "/history")


def _unsigned() -> str:
    claims = {"user_id": 1, "organization_id": 1, "type": "auth", "exp": int(time.time()) + 600}
    parts = [{"alg": "none", "typ": "JWT"}, claims]
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."


@pytest.mark.parametrize(
    "wrong",
    [
        "", "nonsense", "a.b.c", _unsigned(), token(secret="x" * 40), token(exp=int(time.time()) - 5), token(exp=None),
        token(type="refresh"), token(type="device"), token(organization_id="1"),
        token(email="x" * 3_000),
    ],
    ids=["none", "nonsense", "dots", "alg-none", "other-secret", "expired", "endless", "refresh", "device",
         "text-id", "too-long"],
)  # fmt: skip
def test_a_token_that_is_not_valid_signs_nobody_in(world: World, wrong: str) -> None:
    visit = world.visit()
    reply = visit.sign_in(wrong)
    assert reply.status == 403
    assert 'role="alert"' in reply.text
    assert not any("session" in name for name in visit.cookies)
    assert visit.get("/history").status == 303


def test_a_session_ends_with_its_token(world: World) -> None:
    visit = world.visit(world.evil)
    visit.cookies["gepp_audit_session"] = token(world.evil, exp=int(time.time()) - 1)
    assert visit.get("/history").status == 303


def test_the_session_is_a_cookie_that_no_script_and_no_other_site_gets(world: World) -> None:
    visit = world.visit()
    visit.get("/sign-in")
    told = visit.post("/sign-in", {"token": token(world.evil)})
    session = next(one for one in told.set_cookies if one.startswith("gepp_audit_session="))
    parts = {part.strip().lower() for part in session.split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= parts
    assert not any(part.startswith("domain") for part in parts)
    [age] = [int(part.removeprefix("max-age=")) for part in parts if part.startswith("max-age=")]
    assert 3_000 < age <= 3_600


def test_behind_https_the_cookies_are_secure_and_bound_to_the_host(world: World) -> None:
    visit = world.visit(None, X_Forwarded_Proto="https")
    assert visit.sign_in(token(world.evil)).status == 303
    assert set(visit.cookies) == {"__Host-gepp_audit_session"}
    assert visit.get("/history").status == 200


def test_signing_out_forgets_the_token(world: World) -> None:
    visit = world.visit(world.evil)
    visit.get("/history")
    told = visit.follow(visit.post("/sign-out"))
    assert "You are signed out." in text_of(told)
    assert visit.get("/history").status == 303


def test_a_link_from_another_site_finds_the_session_that_the_browser_withheld(world: World) -> None:
    visit = world.visit(world.evil)
    kept, visit.cookies = visit.cookies, {}
    reply = visit.get(f"/history/{world.batch}?verdict=rejected", Sec_Fetch_Site="cross-site")
    assert f'content="0; url=/history/{world.batch}?verdict=rejected"' in reply.text
    visit.cookies = kept
    assert visit.get(f"/history/{world.batch}?verdict=rejected", Sec_Fetch_Site="same-origin").status == 200


# -- one organization's data -------------------------------------------------------------------------------------------


def test_what_belongs_to_another_organization_does_not_exist(world: World) -> None:
    visit = world.visit(world.other)
    history = visit.get("/history")
    assert f'href="/history/{world.batch}"' not in history.text
    first = world.transactions[0]
    for path in (
        f"/history/{world.batch}",
        f"/history/{world.batch}?part=live",
        f"/history/{world.batch}/transactions/{first}",
        f"/history/{world.open_batch}/transactions/{first}",
        f"/history/{world.batch}/cancel",
    ):
        reply = visit.get(path)
        assert (reply.status, "There is no such page" in text_of(reply)) == (404, True), path
        assert "Evil" not in reply.text
    visit.get("/history")
    for path in (f"/history/{world.batch}/cancel", f"/history/{world.batch}/retry"):
        assert visit.post(path).status == 404


@pytest.mark.parametrize(
    "path",
    ["/history/0", "/history/99999", "/history/9999999999999999999999", "/history/x", "/history/1/transactions/x",
     "/nothing", "/static/..%2Frouter.py", "/static/page.py", "/history/1/transactions/99999999999999999999"],
)  # fmt: skip
def test_what_does_not_exist_is_a_page_that_says_so(world: World, path: str) -> None:
    reply = world.visit(world.evil).get(path)
    assert reply.status == 404
    assert reply.headers["content-type"] == "text/html; charset=utf-8"


# -- forms -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({"csrf": ""}, {}),
        ({"csrf": "guessed"}, {}),
        ({}, {"Sec_Fetch_Site": "cross-site"}),
        ({}, {"Sec_Fetch_Site": "same-site"}),
        ({}, {"Sec_Fetch_Site": "none"}),
        ({}, {"Origin": "https://evil.example"}),
        ({}, {"Origin": "null"}),
        ({}, {"Content_Type": "text/plain"}),
        ({}, {"Content_Type": "multipart/form-data; boundary=x"}),
    ],
)
def test_a_form_of_another_site_is_refused_and_changes_nothing(
    world: World, fields: dict[str, str], headers: dict[str, str]
) -> None:
    visit = world.visit(world.other)
    for path in (
        "/history/start", f"/history/{world.open_batch}/cancel", f"/history/{world.open_batch}/retry", "/sign-out",
        "/language", "/sign-in",
    ):  # fmt: skip
        visit.get("/history")
        reply = visit.post(path, {**fields, "language": "th"}, **headers)
        assert (reply.status, "cannot be accepted" in text_of(reply)) == (403, True), path
        assert reply.set_cookies == ()
    assert world.platform.history(world.open_batch)["status"] == "in_progress"


def test_a_proof_is_worth_nothing_in_another_session(world: World) -> None:
    mine, theirs = world.visit(world.other), world.visit(world.evil)
    mine.get("/history")
    theirs.get("/history")
    assert mine.post("/language", {"csrf": theirs.proof, "language": "th"}).status == 403
    assert mine.post("/language", {"csrf": mine.proof, "language": "th"}).status == 303


def test_nobody_can_be_signed_in_by_another_site(world: World) -> None:
    """Somebody else's token must not be planted: the sign-in form too needs a proof bound to this browser."""
    visit = world.visit()
    visit.get("/sign-in")
    proof, visit.cookies = visit.proof, {}
    assert visit.post("/sign-in", {"csrf": proof, "token": token(world.evil)}).status == 403


def test_a_form_of_our_own_origin_is_taken(world: World) -> None:
    visit = world.visit(world.empty)
    visit.get("/history")
    here = world.served.url.rstrip("/")
    told = visit.follow(visit.post("/history/start", Origin=here, Sec_Fetch_Site="same-origin"))
    assert "No transaction waits for an audit" in text_of(told)


def test_reading_changes_nothing(world: World) -> None:
    visit = world.visit(world.other)
    for path in ("/history/start", f"/history/{world.open_batch}/retry", "/sign-out", "/language"):
        assert visit.get(path).status in (404, 405), path
    assert visit.get(f"/history/{world.open_batch}/cancel").status == 200
    assert world.platform.history(world.open_batch)["status"] == "in_progress"


def test_a_batch_that_has_ended_cannot_be_cancelled(world: World) -> None:
    visit = world.visit(world.evil)
    assert visit.get(f"/history/{world.batch}/cancel").status == 409
    visit.get("/history")
    reply = visit.post(f"/history/{world.batch}/cancel")
    assert (reply.status, "there is nothing to cancel" in text_of(reply)) == (409, True)


# -- what it says ------------------------------------------------------------------------------------------------------


def test_whatever_people_wrote_is_text_and_nothing_else(world: World) -> None:
    visit = world.visit(world.evil)
    seen = [visit.get(path) for path in _pages(world)]
    assert [reply.status for reply in seen] == [200] * 4
    for reply in seen:
        assert "<script>alert" not in reply.text
        assert "<img src=x" not in reply.text
        assert "' onmouseover" not in reply.text
        assert '" onmouseover' not in reply.text
        assert f"Evil {ATTACK}" in text_of(reply)  # it is shown all the same, as it was written
    transaction = text_of(seen[-1])
    for written in ("Rule", "Reason", "Note"):
        assert f"{written} {ATTACK}" in transaction


def test_every_answer_forbids_what_the_pages_do_not_need(world: World) -> None:
    visit = world.visit(world.evil)
    visit.get("/history")
    replies = [visit.get(path) for path in (*_pages(world), "/history/99999", "/sign-in", "/static/page.css")]
    replies.append(visit.post("/language", {"language": "en"}))
    for reply in replies:
        policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))
        assert policy == {
            "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self'",
            "connect-src": "'self'", "form-action": "'self'", "frame-ancestors": "'none'", "base-uri": "'none'",
        }  # fmt: skip
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "server" not in reply.headers
    pages = [reply for reply in replies if "text/html" in reply.headers.get("content-type", "")]
    assert len(pages) == 5
    for reply in pages:
        assert reply.headers["cache-control"] == "no-store"
        assert " style=" not in reply.text
        assert "<style" not in reply.text
        assert "http://" not in reply.text.replace("http://127.0.0.1", "")


def test_a_value_that_has_changed_since_is_told_beside_what_was_quoted(world: World) -> None:
    first = world.transactions[0]
    told = text_of(world.visit(world.evil).get(f"/history/{world.batch}/transactions/{first}"))
    assert "Weight (kg) 6.25 DC-01 quoted as 99" in told


def test_a_batch_is_read_page_by_page(world: World) -> None:
    visit = world.visit(world.evil)
    seen: list[int] = []
    path = f"/history/{world.batch}?verdict=rejected&rule=DC-01"
    while path:
        reply = visit.get(path)
        seen += [id_ for id_ in world.transactions if f'id="line-{id_}"' in reply.text]
        _, found, rest = reply.text.partition('rel="next" href="')
        path = rest.partition('"')[0].replace("&amp;", "&") if found else ""
    assert seen == world.transactions


def test_a_rule_that_nothing_names_leaves_an_empty_page_whether_or_not_somebody_has_it(world: World) -> None:
    for rule in ("DC-01", "NOPE"):
        reply = world.visit(world.other).get(f"/history/{world.open_batch}?rule={rule}")
        assert (reply.status, reply.text.count('id="line-')) == (200, 0)


@pytest.mark.parametrize(
    ("query", "seen"),
    [
        ("status=completed", True), ("status=failed", False), ("status=nonsense", True), ("from=2020-01-01", True),
        ("from=2199-01-01", False), ("to=2020-01-01", False), ("to=2199-12-31", True), ("before=1", False),
        ("before=9999999999", True), ("from=yesterday", True), ("to=0001-01-01", True),
    ],
)  # fmt: skip
def test_the_list_is_narrowed_by_status_and_days(world: World, query: str, seen: bool) -> None:
    reply = world.visit(world.evil).get(f"/history?{query}")
    assert (reply.status, f'id="batch-{world.batch}"' in reply.text) == (200, seen)
    wrong = "yesterday" in query or "0001" in query
    assert ("is no date" in text_of(reply)) is wrong


def test_what_changes_while_a_batch_runs_can_be_had_alone(world: World) -> None:
    visit = world.visit(world.other)
    rows = visit.get("/history?part=live")
    assert "<html" not in rows.text
    assert f'id="progress-{world.open_batch}"' in rows.text
    assert "data-open" in rows.text
    batch = visit.get(f"/history/{world.open_batch}?part=live")
    assert "<html" not in batch.text
    assert 'aria-valuenow="0"' in batch.text


def test_the_pages_speak_the_language_that_a_browser_asks_for_until_one_is_chosen(world: World) -> None:
    visit = world.visit(world.empty, Accept_Language="th-TH,th;q=0.9,en;q=0.5")
    reply = visit.get("/history")
    assert '<html lang="th">' in reply.text
    assert "ประวัติการตรวจสอบ" in reply.text
    back = visit.post("/language", {"language": "en", "next": "/history?status=failed"})
    assert back.headers["location"] == "/history?status=failed"
    assert '<html lang="en">' in visit.get("/history").text


def test_files_of_the_pages_are_kept_by_the_browser_under_addresses_that_change_with_them(world: World) -> None:
    page = world.visit().get("/sign-in").text
    address = page.partition('href="/static/page.css')[2].partition('"')[0]
    reply = world.served.get(f"/static/page.css{address}")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert "immutable" in reply.headers["cache-control"]


def test_no_secret_and_no_token_stands_in_a_page(world: World) -> None:
    visit = world.visit(world.evil)
    session = visit.cookies["gepp_audit_session"]
    for path in _pages(world):
        body = visit.get(path).text
        assert session not in body
        assert TEST_JWT_SECRET not in body
