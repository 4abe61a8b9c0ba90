"""Headless Chromium for tests of pages, if it is there."""

import contextlib
import shutil

import pytest

webdriver = pytest.importorskip("selenium.webdriver")
support = pytest.importorskip("selenium.webdriver.support.wait")
Keys, CSS = webdriver.Keys, "css selector"
_BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
_DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (_BROWSER and _DRIVER), reason="chromium and chromedriver are not installed"
)


@contextlib.contextmanager
def started():
    """A browser; leaving the block ends it."""
    options = webdriver.ChromeOptions()
    options.binary_location = _BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(_DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def show(browser, url, width=1280, scheme="light", motion="no-preference"):
    """Opens a page in a window of this width."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
    features = [{"name": name, "value": value} for name, value in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(url)


def press(browser, *keys):
    """Presses keys where the focus is."""
    for key in keys:
        browser.switch_to.active_element.send_keys(key)
