"""The Audit History page in a real browser: from signing in to the reason of a rejection, with a script and without, by
mouse and by keyboard, wide and narrow, light and dark, in English and Thai.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Position, expect

from tests.support.browser import Window, running_browser, window
from tests.support.pages import rejected_by, told_batch
from tests.support.platforms import Platform
from tests.support.processes import Programs, Simulator, running_simulator
from tests.support.queues import BROKEN, CLEAN, SampleQueue, expectations
from tests.support.web import WITH_SECRET, Served, serving, token

NARROW = {"width": 360, "height": 740}
WIDE = {"width": 1280, "height": 800}
#: within a batch's link: its first box is that of the words for screen readers, where nothing can be clicked
ON_ITS_NUMBER: Position = {"x": 5, "y": 9}


@dataclass(frozen=True, kw_only=True)
class World:
    """A server that processes what its page starts, a simulator that takes its time, a browser."""

    served: Served
    queue: SampleQueue
    simulator: Simulator
    browser: Browser

    def signed_in(self, shown: Window, organization: int = 1) -> Page:
        """Through the form."""
        page = shown.page
        page.goto(self.served.url)
        page.get_by_label("Access token of the GEPP platform").fill(token(organization))
        page.get_by_role("main").get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/history")
        return page

    def open_batch(self, organization: int) -> int:
        """A batch that nothing processes: the server starts no run for what the platform itself has queued."""
        return self.queue.platform.batch(organization, self.transactions(organization, status="queued"))

    def transactions(self, organization: int, *, status: str) -> list[int]:
        """Three of the sample's."""
        theirs = [id_ for id_, one in expectations().items() if one.organization == organization]
        return self.queue.add(theirs[:3], status=status)

    def status(self, batch: int) -> str:
        """As the platform has it."""
        return str(self.queue.platform.history(batch)["status"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, embedded_template: Path) -> Iterator[World]:
    """One of each for all tests; every test has batches of its own."""
    home = tmp_path_factory.mktemp("browser")
    (home / "platform.db").write_bytes(embedded_template.read_bytes())
    platform = Platform(f"sqlite:///{home}/platform.db", "embedded")
    queue = SampleQueue(platform)
    with (
        running_simulator(latency_ms=500) as simulator,
        Programs(home=home) as programs,
        serving(
            programs,
            environ={**WITH_SECRET, **simulator.environ},
            DATABASE_URL=platform.url,
            GEPP_AUDIT_PROCESS_ON_START="yes",
            GEPP_AUDIT_CONCURRENCY="1",
        ) as served,
        running_browser() as browser,
    ):
        yield World(served=served, queue=queue, simulator=simulator, browser=browser)
    platform.close()


_WATCH = """() => {
  window.seen = [];
  const look = () => {
    const bar = document.querySelector('[role=progressbar]');
    const now = Number(bar.getAttribute('aria-valuenow'));
    if (window.seen.at(-1) !== now) window.seen.push(now);
  };
  look();
  new MutationObserver(look).observe(document.body, {subtree: true, childList: true, attributes: true});
}"""


def test_an_audit_is_started_watched_to_its_end_and_its_reasons_are_read(world: World) -> None:
    ids = world.queue.add([CLEAN[0], BROKEN, CLEAN[1], CLEAN[0], CLEAN[1], CLEAN[0], CLEAN[1], CLEAN[0]], status="null")
    broken = ids[1]
    with window(world.browser, viewport=WIDE) as shown:
        page = shown.page
        page.goto(world.served.url)
        found = shown.serious_violations()
        world.signed_in(shown)
        expect(page.get_by_role("heading", name="Nothing has been audited yet")).to_be_visible()
        expect(page.get_by_text("No token was used in these 30 days.")).to_be_visible()
        found += shown.serious_violations()

        page.get_by_role("button", name="Start AI Audit").click()
        expect(page.get_by_role("status").filter(has_text="is queued.")).to_be_visible()
        page.evaluate(_WATCH)
        found += shown.serious_violations()
        bar = page.get_by_role("progressbar")
        expect(bar).to_have_attribute("aria-valuenow", "100", timeout=60_000)
        expect(page.locator("#live")).to_have_text(re.compile(r"Batch \d+: Completed\."))
        seen = page.evaluate("window.seen")
        assert seen == sorted(seen)
        assert seen[-1] == 100
        assert any(0 < one < 100 for one in seen), seen
        expect(page.get_by_role("row").filter(has_text="8 of 8")).to_contain_text("Completed")

        page.reload()
        expect(page.get_by_role("img", name="Tokens over time")).to_be_visible()
        found += shown.serious_violations()
        page.get_by_role("rowheader").get_by_role("link").click(position=ON_ITS_NUMBER)
        expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(r"Batch \d+"))
        page.get_by_role("link", name="Rejected").click()
        lines = page.locator(".line")
        expect(lines).to_have_count(1)
        expect(lines).to_contain_text("DC-01")
        found += shown.serious_violations()

        page.get_by_role("link", name=str(broken), exact=False).last.click()
        expect(page.get_by_role("heading", level=1)).to_have_text(f"Transaction {broken}")
        expect(page.get_by_text("Rejected").first).to_be_visible()
        itself = page.get_by_role("article", name="The transaction itself")
        expect(itself.locator("mark")).to_have_text("74")
        expect(itself.locator(".because .reason")).to_contain_text("64 กก.")
        record = page.get_by_role("article", name=f"Record {broken * 100}")
        expect(record.locator("mark")).to_have_text("45.8")
        expect(record.locator(".because")).to_contain_text("DC-01")
        found += shown.serious_violations()
        page.goto(f"{world.served.url}history/usage")
        expect(page.get_by_role("table")).to_contain_text("8")
        found += shown.serious_violations()
    assert found == []
    assert shown.complaints == []
    expected = {id_: world.queue.statuses[id_] for id_ in ids}
    assert world.queue.platform.labels(ids) == expected


def test_a_batch_is_cancelled_after_a_question(world: World) -> None:
    batch = world.open_batch(2)
    with window(world.browser, viewport=WIDE) as shown:
        page = world.signed_in(shown, 2)
        page.get_by_role("link", name=f"Cancel Batch {batch}").click()
        dialog = page.get_by_role("dialog", name=f"Cancel batch {batch}?")
        expect(dialog).to_be_visible()
        found = shown.serious_violations()
        dialog.get_by_role("button", name="Keep it running").click()
        expect(dialog).to_be_hidden()
        assert world.status(batch) == "in_progress"
        page.get_by_role("rowheader").get_by_role("link", name=str(batch)).click(position=ON_ITS_NUMBER)
        page.get_by_role("link", name="Cancel", exact=True).click()
        dialog.get_by_role("button", name="Cancel the batch").click()
        expect(page.get_by_text(f"Batch {batch} is cancelled.")).to_be_visible()
        expect(page.locator("h1 + .badge")).to_have_text("Cancelled")
        found += shown.serious_violations()
    assert world.status(batch) == "cancelled"
    assert (found, shown.complaints) == ([], [])


def test_everything_can_be_done_with_the_keyboard_alone(world: World) -> None:
    batch = world.open_batch(3)
    with window(world.browser, viewport=WIDE) as shown:
        page = shown.page
        page.goto(world.served.url)
        _tab_to(page, "Skip to the content")
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.type(token(3))
        page.keyboard.press("Enter")
        page.wait_for_url("**/history")
        _tab_to(page, "Start AI Audit")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        _tab_to(page, f"Cancel Batch {batch}")
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_be_visible()
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        assert _focused(page) == f"Cancel Batch {batch}"
        page.keyboard.press("Enter")
        _tab_to(page, "Cancel the batch")
        page.keyboard.press("Enter")
        expect(page.get_by_text(f"Batch {batch} is cancelled.")).to_be_visible()
    assert world.status(batch) == "cancelled"
    assert shown.complaints == []


def test_everything_works_without_a_script(world: World) -> None:
    id_ = world.transactions(3, status="null")[0]
    with window(world.browser, viewport=NARROW, java_script_enabled=False) as shown:
        page = world.signed_in(shown, 3)
        page.get_by_role("link", name="Show tokens over time").click()
        page.get_by_role("link", name="Audit History").click()
        page.get_by_role("button", name="Start AI Audit").click()
        expect(page.get_by_text("is queued.")).to_be_visible()
        batch = int(page.url.partition("batch=")[2])
        page.get_by_role("link", name="Reload to see progress").click()
        page.goto(f"{world.served.url}history/{batch}")
        expect(page.locator(f"#line-{id_}")).to_be_visible()
    waiting = world.open_batch(3)
    with window(world.browser, viewport=NARROW, java_script_enabled=False) as shown:
        page = world.signed_in(shown, 3)
        page.get_by_role("link", name=f"Cancel Batch {waiting}").click()
        expect(page.get_by_role("heading", name=f"Cancel batch {waiting}?")).to_be_visible()
        page.get_by_role("button", name="Cancel the batch").click()
        expect(page.get_by_text(f"Batch {waiting} is cancelled.")).to_be_visible()
    assert world.status(waiting) == "cancelled"


def test_pages_fit_a_narrow_window_in_thai(world: World) -> None:
    ids = world.transactions(2, status="null")
    long = "น้ำหนักรวมของรายการไม่ตรงกับน้ำหนักของธุรกรรม" * 6
    quoted = {"record_id": ids[0] * 100, "field": "notes", "value": "x" * 200}
    note = rejected_by("DC-01", long, quoted, {"record_id": None, "field": "weight_kg", "value": "99"})
    batch = told_batch(world.queue.platform, 2, ids, note)
    world.open_batch(2)
    with window(world.browser, viewport=NARROW, locale="th-TH") as shown:
        page = shown.page
        page.goto(world.served.url)
        wide = {page.url: shown.overflow}
        page.locator("#token").fill(token(2))
        page.get_by_role("main").get_by_role("button").click()
        page.wait_for_url("**/history")
        found = []
        for path in ("", f"/{batch}", f"/{batch}/transactions/{ids[0]}", "/usage", "/99999"):
            page.goto(f"{world.served.url}history{path}", wait_until="networkidle")
            expect(page.locator("html")).to_have_attribute("lang", "th")
            wide[page.url] = shown.overflow
            found += shown.serious_violations()
        page.get_by_role("button", name="English").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("There is no such page")
    assert set(wide.values()) == {0}, wide
    assert found == []
    assert [one for one in shown.complaints if "404" not in one] == []


def test_a_page_whose_server_is_out_of_reach_says_so_and_goes_on_when_it_is_back(world: World) -> None:
    batch = world.open_batch(3)
    with window(world.browser, viewport=WIDE) as shown:
        page = world.signed_in(shown, 3)
        page.route("**/history?part=live", lambda route: route.abort())
        expect(page.locator("#live")).to_have_text("The server does not answer; trying again.")
        page.unroute("**/history?part=live")
        world.queue.platform.execute(
            "UPDATE transaction_audit_history SET status = 'cancelled', deleted_date = started_at WHERE id = :id",
            id=batch,
        )
        expect(page.locator("#live")).to_have_text("")


def test_another_site_can_lead_here_but_do_nothing_here(world: World) -> None:
    batch = world.open_batch(3)
    here = f"{world.served.url}history/{batch}"
    elsewhere = f'''<a href="{here}">look</a><form method="post" action="{here}/cancel"><button>win</button></form>'''
    with window(world.browser, viewport=WIDE) as shown:
        page = world.signed_in(shown, 3)
        page.route("http://elsewhere.example/", lambda route: route.fulfill(body=elsewhere, content_type="text/html"))
        page.goto("http://elsewhere.example/")
        page.get_by_role("link", name="look").click()
        expect(page.get_by_role("heading", level=1)).to_have_text(f"Batch {batch}")
        page.goto("http://elsewhere.example/")
        page.get_by_role("button", name="win").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")  # the cookie stayed at home
    assert world.status(batch) == "in_progress"


def _tab_to(page: Page, name: str) -> None:
    """Press Tab until the element of this name has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if _focused(page) == name:
            return
    raise AssertionError(f"Tab never came to {name!r}")


def _focused(page: Page) -> str:
    told: str = page.evaluate("document.activeElement.textContent.trim().replace(/\\s+/g, ' ')")
    return told
