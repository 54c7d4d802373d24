"""The explorer's pages in a real browser: load, upload, predict, paint, play.
"""

import contextlib
import shutil
import socket
import threading
import time

import numpy as np
import pytest
from PIL import Image

from uvim.explorer import server as server_lib
from uvim.explorer.film import FilmSession
from uvim.explorer.session import Session
from uvim.inference.opening import open_predictor

OPTIONS = ("headless=new", "no-sandbox", "disable-gpu", "disable-sync",
           "disable-background-networking", "disable-component-update",
           "disable-dev-shm-usage", "window-size=1300,1200")
PHONE = 390  # Pixels that a phone is wide.
WAIT = 120  # Seconds; a busy machine is slow.


@pytest.fixture(scope="module")
def browser():
  programs = [shutil.which(x) for x in ("chromium", "chromedriver")]
  if None in programs:
    pytest.skip("skipped: no chromium and chromedriver on this machine")
  from selenium import webdriver
  options = webdriver.ChromeOptions()
  options.binary_location = programs[0]
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  for option in OPTIONS:
    options.add_argument(f"--{option}")
  driver = webdriver.Chrome(
      options=options, service=webdriver.ChromeService(programs[1]))
  yield driver
  driver.quit()


@contextlib.contextmanager
def serve(session):
  """The address of a server in a thread of this process."""
  import uvicorn
  with socket.create_server(("127.0.0.1", 0)) as sock:
    server = uvicorn.Server(uvicorn.Config(
        server_lib.make_app(session), log_config=None, ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def address(browser, masked):
  with serve(Session(masked, "tiny")) as address:
    yield address


@pytest.fixture(scope="module")
def film_address(browser, pix2seq_d_run):
  model = open_predictor(pix2seq_d_run[0])
  with serve(FilmSession(model, "tiny")) as address:
    yield address


def wait(browser, condition):
  end = time.monotonic() + WAIT
  while not (value := browser.execute_script(f"return {condition}")):
    error = browser.execute_script(
        "return document.getElementById('error').textContent")
    assert not error, error
    assert time.monotonic() < end, condition
    time.sleep(0.1)
  return value


def test_load_upload_predict_paint(browser, address, tmp_path):
  from selenium.webdriver import ActionChains
  from selenium.webdriver.common.by import By
  levels = np.linspace(0, 255, 30 * 40 * 3).reshape(30, 40, 3)
  Image.fromarray(levels.astype(np.uint8)).save(tmp_path / "image.png")
  browser.get(address)
  wait(browser, "document.body.dataset.ready === 'yes'")
  assert "4 words of 8" in browser.find_element(By.ID, "title").text
  browser.find_element(By.ID, "file").send_keys(str(tmp_path / "image.png"))
  # An upload is predicted at once.
  wait(browser, "document.querySelectorAll('#cards figure').length === 2 && "
       "!document.getElementById('predict').disabled")
  browser.execute_script("""
    document.getElementById('num_samples').value = 3;
    document.getElementById('temperature').value = 1;
  """)
  browser.find_element(By.ID, "predict").click()
  wait(browser, "document.querySelectorAll('#cards figure').length === 4 && "
       "!document.getElementById('predict').disabled")
  # From the first cell of the grid to the second.
  grid = browser.find_element(By.ID, "grid")
  width, height = grid.size["width"], grid.size["height"]
  before = browser.execute_script("return [code.slice(), out.src]")
  ActionChains(browser).move_to_element_with_offset(
      grid, -width // 4, -height // 4).click_and_hold().move_by_offset(
          width // 2, 0).release().perform()
  wait(browser, f"out.src !== '{before[1]}'")
  code = browser.execute_script("return code")
  assert code == [-1, -1, *before[0][2:]]
  browser.find_element(By.ID, "undo").click()
  wait(browser, f"out.src === '{before[1]}'")
  assert browser.execute_script("return code") == before[0]
  # The page names what is under the pointer, and lists the classes.
  card = browser.find_elements(By.CSS_SELECTOR, "#cards figure img")[-1]
  ActionChains(browser).move_to_element(card).perform()
  name = wait(browser, "!tip.hidden && tip.textContent")
  assert name == "void" or name in browser.find_element(By.ID, "legend").text
  # Two words are painted, and the rest follows in as many passes as asked.
  browser.execute_script("""
    document.getElementById('num_iter').value = 2;
    document.getElementById('brush').value = 'word';
    document.getElementById('word').value = 5;
  """)
  ActionChains(browser).move_to_element_with_offset(
      grid, -width // 4, -height // 4).click_and_hold().move_by_offset(
          width // 2, 0).release().perform()
  browser.find_element(By.ID, "follow").click()
  wait(browser, "images.get(now).samples[0].settings.startsWith("
       "'2 words fixed, passes 2') && !document.getElementById('follow')"
       ".disabled")
  follows = browser.execute_script("return [code, base, [...locked]]")
  assert follows[0][:2] == [5, 5] and follows[0] == follows[1]
  assert follows[2] == [0, 1]
  browser.save_screenshot(str(tmp_path / "page.png"))
  with Image.open(tmp_path / "page.png") as page:
    assert page.size[0] == 1300 and np.asarray(page).std() > 20
  # No error in its console: nothing that the policy of the page blocks.
  assert browser.get_log("browser") == []


def test_a_film_on_a_phone(browser, film_address, tmp_path):
  from selenium.webdriver.common.by import By
  Image.new("RGB", (16, 16), "teal").save(tmp_path / "image.png")
  screen = {"width": PHONE, "height": 844, "deviceScaleFactor": 1,
            "mobile": True}
  browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
  browser.get(film_address)
  wait(browser, "document.body.dataset.ready === 'yes'")
  browser.execute_script("document.getElementById('num_steps').value = 2;"
                         "document.getElementById('num_samples').value = 2;")
  browser.find_element(By.ID, "file").send_keys(str(tmp_path / "image.png"))
  # The image and two samples. The film runs by itself and ends.
  wait(browser, "document.querySelectorAll('#cards figure').length === 3 && "
       "!document.getElementById('predict').disabled && timer === null")
  step = browser.find_element(By.ID, "step")
  assert step.text == "step 2 of 2"
  answer = browser.execute_script("return film.frames[1].estimate.output")
  shown = browser.find_element(By.ID, "estimate")
  assert shown.get_attribute("src") == answer
  # A click on the film strip shows its step.
  browser.find_elements(By.CSS_SELECTOR, "#filmstrip button")[0].click()
  assert step.text == "step 1 of 2"
  # Played again, it goes on to the end, and the button pauses it.
  play = browser.find_element(By.ID, "play")
  browser.execute_script("arguments[0].click()", play)
  assert play.text == "pause"
  wait(browser, "timer === null && place === 1")
  # Another sample has a film of its own.
  browser.find_elements(By.CSS_SELECTOR, "#cards figure[tabindex]")[1].click()
  assert browser.execute_script("return film.seed") == 1
  widths = browser.execute_script(
      "const root = document.documentElement;"
      "return [root.scrollWidth, root.clientWidth]")
  assert widths == [PHONE, PHONE]
  browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
  assert browser.get_log("browser") == []
