"""A person follows a run and votes, in Chromium (apt: chromium, chromium-driver)."""

import json
import shutil
import threading

import numpy as np
import pytest
from test_serve import make_run, rows_of

from jaxreward.data import preference_files
from jaxreward.report import serve

pytestmark = [
  pytest.mark.extras,
  pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="needs chromium and chromium-driver",
  ),
]


@pytest.fixture(scope="module")
def browser():
  webdriver = pytest.importorskip("selenium.webdriver")
  options = webdriver.ChromeOptions()
  options.binary_location = shutil.which("chromium")
  for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
    options.add_argument(flag)
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  service = webdriver.ChromeService(shutil.which("chromedriver"))
  driver = webdriver.Chrome(options, service)
  driver.set_window_size(1100, 900)
  yield driver
  driver.quit()


def test_a_run_is_followed_and_voted_on(browser, tmp_path):
  from selenium.webdriver.common.by import By
  from selenium.webdriver.common.keys import Keys
  from selenium.webdriver.support.ui import WebDriverWait

  folder = make_run(tmp_path / "run")
  wait = WebDriverWait(browser, 60)
  at = lambda id: browser.find_element(By.ID, id)
  with serve.make_server(folder, 0) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser.get(serve.address_of(server))
    wait.until(lambda _: "no metrics yet" in at("status").text)
    row = {"job": "align", "step": 1, "eval/accuracy": 0.5, "loss": 1.0}
    with open(folder / "metrics.jsonl", "w") as file:
      for step in (1, 2):
        file.write(json.dumps(row | {"step": step}) + "\n")
    wait.until(lambda _: "align, step 2" in at("status").text)
    charts = [c.text for c in browser.find_elements(By.TAG_NAME, "figcaption")]
    assert any("eval/accuracy" in text and "0.5" in text for text in charts)

    at("tab-report").click()
    assert at("noreport").is_displayed()
    (folder / "report.html").write_text("<h1>First</h1>")
    frame = at("frame")
    wait.until(lambda _: frame.is_displayed())
    wait.until(lambda _: "report.html?version=" in frame.get_property("src"))
    first = frame.get_property("src")
    (folder / "report.html").write_text("<h1>Second</h1>")
    wait.until(lambda _: frame.get_property("src") != first)
    browser.switch_to.frame(frame)
    wait.until(lambda _: browser.find_element(By.TAG_NAME, "h1").text)
    assert browser.find_element(By.TAG_NAME, "h1").text == "Second"
    browser.switch_to.default_content()

    at("tab-vote").click()
    shown = [shown_pair(wait, [])]
    for choice in (Keys.ARROW_LEFT, Keys.ARROW_RIGHT, "t"):
      browser.find_element(By.TAG_NAME, "body").send_keys(choice)
      shown.append(shown_pair(wait, shown[-1]))
    at("neither").click()
    wait.until(lambda _: "no pair without a vote" in at("message").text)
    server.shutdown()

  rows = rows_of(folder)
  assert [r["label"] for r in rows] == ["a", "b", "tie", "both_bad"]
  names = [[f"images/{d}.png" for d in pair] for pair in shown]
  assert [[r["image_a"], r["image_b"]] for r in rows] == names
  read = list(preference_files.read_rows(folder / "votes" / "votes.jsonl"))
  np.testing.assert_array_equal([r.prob[0, 1] for r in read], [1, 0, 0.5, 0.5])
  severe = [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
  assert [e for e in severe if "favicon" not in e["message"]] == []


def shown_pair(wait, before):
  """The images of the pair that is shown now, once both are loaded.

  Read by one script: between two calls the page may show the next pair.
  """
  script = (
    "return [...document.querySelectorAll('#pair img')].map("
    "i => i.complete && i.naturalWidth == 8 ? i.src : '')"
  )

  def look(browser):
    names = [s.rpartition("/")[2] for s in browser.execute_script(script)]
    return all(names) and names != before and names

  return wait.until(look)
