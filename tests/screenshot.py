"""Make the pictures of the pages at /docs and /dashboard: ``python tests/screenshot.py``."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path

from browser import Browser, running_browser
from servers import KEY, Proxy, running_proxy

from llmauth.cli import traffic

FOLDER = Path(__file__).parent.parent / "docs"
PORT = 8000


def main() -> None:
    environ = {"LLM_BACKEND": "echo"}
    with running_browser() as browser, tempfile.TemporaryDirectory() as folder:
        browser.command("Emulation.setScrollbarsHidden", hidden=True)
        with running_proxy(None, environ, port=PORT) as proxy:
            docs_page(browser, proxy)
        database = Path(folder) / "keys.db"
        key = traffic.fill(database)
        with running_proxy(None, environ, port=PORT, database=str(database)) as proxy:
            dashboard(browser, proxy, key)


def docs_page(browser: Browser, proxy: Proxy) -> None:
    browser.open(f"{proxy.url}/docs", width=1100, height=920)
    browser.fill(key=KEY)
    browser.find("#send").click()
    browser.wait_for("#status", "Done: ")
    browser.run("document.activeElement.blur(); scrollTo(0, 0)")
    save(browser, "docs-page.png")


def dashboard(browser: Browser, proxy: Proxy, key: str) -> None:
    browser.open(f"{proxy.url}/dashboard", width=1100, height=1180)
    browser.fill(key=key)
    browser.find("#enter-form button").click()
    browser.wait_for("#key-list", "chat-bot")
    browser.run("document.activeElement.blur(); scrollTo(0, 0)")
    save(browser, "dashboard.png")
    browser.open(f"{proxy.url}/dashboard", width=1100, height=760, dark=True)
    browser.fill(key=key)
    browser.find("#enter-form button").click()
    browser.wait_for("#key-list", "chat-bot")
    browser.run("document.querySelector('#add').click()")
    browser.fill(name="carol", dollars="20")
    browser.find("#save").click()
    browser.wait_for("#made-title", "carol")
    browser.run("document.activeElement.blur()")
    save(browser, "dashboard-new-key.png")


def save(browser: Browser, name: str) -> None:
    shot = browser.command("Page.captureScreenshot", format="png", optimizeForSpeed=False)
    picture = FOLDER / name
    picture.write_bytes(base64.b64decode(shot["data"]))
    print(f"{picture}: {picture.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
