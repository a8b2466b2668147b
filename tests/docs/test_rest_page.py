from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

    from tests.docs.conftest import Demo

_WAIT_S = 20.0


def _result(browser: WebDriver) -> str:
    """What the page says when it has an answer, good or bad."""
    WebDriverWait(browser, _WAIT_S).until(lambda page: _text(page) not in {"", "asking …"})
    return _text(browser)


def _text(browser: WebDriver) -> str:
    return browser.find_element(By.ID, "result").text


def _asked(browser: WebDriver) -> list[str]:
    """Every address that the page asked the network for."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]


@pytest.mark.parametrize("path", ["/api/v1/inference/docs", "/docs/"])
def test_a_person_tries_it(demo: Demo, browser: WebDriver, path: str) -> None:
    """A press on the button shows a position near the transmitter; the console is silent, no other host is asked."""
    browser.get(demo.url + path)
    WebDriverWait(browser, _WAIT_S).until(lambda page: page.find_elements(By.CSS_SELECTOR, "#operations h2"))
    assert len(browser.find_elements(By.CSS_SELECTOR, "#operations h2")) == 6
    browser.find_element(By.ID, "send").click()
    assert _result(browser).startswith("Position 4")
    answer = json.loads(browser.find_element(By.ID, "answer").text)
    assert abs(answer["position"]["latitude"] - 45.0) < 0.7
    assert abs(answer["position"]["longitude"] - 8.2) < 0.9
    assert answer["ellipse"]["confidence_level"] == 0.95
    assert browser.get_log("browser") == []
    assert all(address.startswith((demo.url, "data:,")) for address in _asked(browser))


def test_a_person_sees_what_is_wrong(demo: Demo, browser: WebDriver) -> None:
    """A refusal is shown in the service's own words."""
    browser.get(demo.url + "/docs")
    browser.execute_script("document.getElementById('try').noValidate = true")
    level = browser.find_element(By.ID, "level")
    level.clear()
    level.send_keys("1.5")
    browser.find_element(By.ID, "send").click()
    assert _result(browser) == "400: confidence_level: 1.5 is not between 0 and 1, both excluded"
