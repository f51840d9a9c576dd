"""Make the README's picture of the page at /docs: ``python tests/screenshot.py``."""

from __future__ import annotations

import base64
from pathlib import Path

from browser import running_browser
from servers import KEY, running_proxy

PICTURE = Path(__file__).parent.parent / "docs" / "docs-page.png"


def main() -> None:
    environ = {"LLM_BACKEND": "echo"}
    with running_proxy(None, environ, port=8000) as proxy, running_browser() as browser:
        browser.command("Emulation.setScrollbarsHidden", hidden=True)
        browser.open(f"{proxy.url}/docs", width=1100, height=920)
        browser.fill(key=KEY)
        browser.find("#send").click()
        browser.wait_for("#status", "Done: ")
        browser.run("document.activeElement.blur(); scrollTo(0, 0)")
        shot = browser.command("Page.captureScreenshot", format="png", optimizeForSpeed=False)
    PICTURE.write_bytes(base64.b64decode(shot["data"]))
    print(f"{PICTURE}: {PICTURE.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
