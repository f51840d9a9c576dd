"""A real Chromium without a window."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

SECONDS = 20
FOREIGN_HOST = "proxy.example"
"""Stands for 127.0.0.1, in this browser only: over plain HTTP such a page has fewer rights."""

_SWITCHES = (
    "--headless=new",
    "--no-sandbox",  # Chromium refuses to run as root with it
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-component-extensions-with-background-pages",
    # One process shows one page after the other; by default each has a new one, and a spare. What
    # pages may read of each other is the same.
    "--process-per-site",
    "--disable-site-isolation-trials",
    "--disable-features=BackForwardCache,SpareRendererForSitePerProcess",
    f"--host-resolver-rules=MAP {FOREIGN_HOST} 127.0.0.1",
)


class Browser:
    """One page at a time, and what it did."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(
        self,
        url: str,
        *,
        width: int = 1200,
        height: int = 980,
        dark: bool = False,
        scripts: bool = True,
    ) -> None:
        """Show a page on a screen of this size, light or dark."""
        self.driver.get("about:blank")
        self.command("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        self.messages()
        self.requests()
        self.driver.get(url)

    def command(self, name: str, **parameters: Any) -> Any:
        """Give a command of the Chrome DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, parameters)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def run_async(self, script: str, *arguments: Any) -> Any:
        """Run the body of an asynchronous function and return its result, or what it threw."""
        return self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1], given = [...arguments].slice(0, -1);"
            f"(async (...args) => {{ {script} }})(...given).then(done, (e) => done(String(e)));",
            *arguments,
        )

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def fill(self, **fields: str) -> None:
        """Type into fields by their id."""
        for name, value in fields.items():
            element = self.find(f"#{name}")
            if element.tag_name != "select":
                element.clear()
            element.send_keys(value)

    def wait_for(self, selector: str, text: str) -> str:
        """Wait until an element's text holds this one, and return it."""
        waiting = WebDriverWait(self.driver, SECONDS, 0.02)
        waiting.until(
            lambda _: text in self.text(selector),
            f"{selector} holds {self.text(selector)!r}, not {text!r}",
        )
        return self.text(selector)

    def messages(self) -> list[str]:
        """Return what the console said since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Return the URLs that were asked for since the last call."""
        logged = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        sent = (e["params"] for e in logged if e["method"] == "Network.requestWillBeSent")
        return [params["request"]["url"] for params in sent]


@contextlib.contextmanager
def running_browser() -> Iterator[Browser]:
    """Start Chromium; where it is not installed, skip the test, but never in CI."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "needs Chromium: apt-get install chromium chromium-driver"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for switch in _SWITCHES:
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        chrome = webdriver.Chrome(options=options, service=Service(driver))
    except WebDriverException as error:
        lines = str(error).splitlines()[:15]
        pytest.fail("\n".join(["Chromium did not start:", *lines]), pytrace=False)
    try:
        chrome.set_script_timeout(SECONDS)
        yield Browser(chrome)
    finally:
        chrome.quit()
