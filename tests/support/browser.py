"""A real browser, Debian's chromium, for tests of the pages: what it complains of, and what axe-core finds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
#: no sandbox: tests run as root too; nothing of it talks to anybody but us
_OPTIONS: Final = (
    "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip
#: what axe-core calls violations that keep people out
_SERIOUS: Final = frozenset({"serious", "critical"})
#: milliseconds: a busy machine is no failure
_PATIENCE: Final = 30_000
_AXE: Final = "() => axe.run(document, {resultTypes: ['violations']})"


@contextmanager
def running_browser() -> Iterator[Browser]:
    """A browser for the time of the `with` block."""
    program = next((found for name in _NAMES if (found := shutil.which(name))), None)
    assert program is not None, "no chromium is installed: scripts/test installs it, or apt-get install chromium does"
    expect.set_options(timeout=_PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass(kw_only=True)
class Window:
    """One visitor's window, and every complaint that the browser had about the pages in it."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Listen from the start."""
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("requestfailed", self._on_failure)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def _on_failure(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # the visitor went on before it had come
            self.complaints.append(f"{request.failure}: {request.url}")

    def serious_violations(self) -> list[str]:
        """What axe-core finds on the page as it is shown, light and then dark; only what is serious or critical."""
        found = []
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme)
            if self.page.evaluate("typeof axe") == "undefined":
                self.page.evaluate(_axe_source())
            told: dict[str, Any] = self.page.evaluate(_AXE)
            found += [_sentence(one, scheme, self.page.url) for one in told["violations"] if one["impact"] in _SERIOUS]
        self.page.emulate_media(color_scheme="light")
        return found

    @property
    def overflow(self) -> int:
        """How many pixels the page is wider than its window."""
        wide: int = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        return max(wide, 0)


@contextmanager
def window(browser: Browser, **options: Any) -> Iterator[Window]:
    """A fresh visitor: no cookie, no cache."""
    context: BrowserContext = browser.new_context(**{"locale": "en-US", "reduced_motion": "reduce", **options})
    context.set_default_timeout(_PATIENCE)
    try:
        yield Window(page=context.new_page())
    finally:
        context.close()


@cache
def _axe_source() -> str:
    found = find_spec("axe_playwright_python")
    assert found is not None
    assert found.origin is not None
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")


def _sentence(violation: dict[str, Any], scheme: str, url: str) -> str:
    nodes = [{"html": node["html"][:200], "why": node["failureSummary"][:300]} for node in violation["nodes"][:5]]
    return f"{violation['id']} ({violation['impact']}, {scheme}) at {url}: {json.dumps(nodes, ensure_ascii=False)}"
