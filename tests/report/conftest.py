"""A report of made-up results, and a browser that opens pages."""

import shutil

import pytest

from m2d_export.report.page import write_report
from tests.report.pages import full_sweep

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    target = tmp_path_factory.mktemp("page") / "report"
    write_report(full_sweep(), target)
    return target


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no chromium and chromium-driver: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with selenium.Chrome(options=options, service=selenium.ChromeService(driver)) as browser:
        yield browser


@pytest.fixture
def open_page(report, browser):
    """Load a page anew in the browser of this module, with an empty log."""

    def load(folder=report, width=1280, scheme="light"):
        browser.get("about:blank")  # else the browser may restore what an earlier test entered
        browser.get_log("browser")
        phone = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get((folder / "index.html").as_uri())
        return browser

    return load
