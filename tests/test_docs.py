"""Links of the documentation lead somewhere, on disk and on its site."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tools import docs_site

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / name for name in docs_site.ROOT_PAGES] + sorted(
    ROOT.glob("docs/**/*.md"))


def text_of(page):
  """A page without its blocks of code, where # and ]( mean something else."""
  return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)


def links_of(page):
  return re.findall(r"\]\(([^)\s]+)\)", text_of(page))


def anchors_of(page):
  """What can stand behind # to reach a heading, as on GitHub and the site."""
  found = []
  for heading in re.findall(r"^#+ +(.+)$", text_of(page), flags=re.M):
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    plain = re.sub(r"[^\w\- ]", "", words.lower()).strip()
    found.append(plain.replace(" ", "-"))
  return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings(page):
  for link in links_of(page):
    file, _, anchor = link.partition("#")
    if "://" in link:
      continue
    target = page.parent / file if file else page
    assert target.exists(), link
    if anchor:
      assert anchor in anchors_of(target), link


def test_each_page_has_its_place_on_the_site():
  nav = re.findall(r"^ +- .+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(),
                   flags=re.M)
  pages = []
  for page in PAGES:
    folder = ROOT / "docs" if ROOT / "docs" in page.parents else ROOT
    pages.append(str(page.relative_to(folder)))
  assert sorted(nav) == sorted(pages)


@pytest.mark.parametrize("page,link,moved", [
    ("README.md", "docs/data.md#splits", "data.md#splits"),
    ("README.md", "uvim/config.py", "https://x.y/uvim/blob/main/uvim/config.py"),
    ("README.md", "CHANGELOG.md", "CHANGELOG.md"),
    ("docs/data.md", "../README.md#start", "README.md#start"),
    ("docs/data.md", "results/fig6.png", "results/fig6.png"),
    ("docs/results/fig6.md", "fig6.png", "fig6.png"),
    ("docs/results/fig6.md", "../data.md#rooms", "../data.md#rooms"),
    ("docs/results/fig6.md", "../../README.md", "../README.md"),
    ("docs/results/fig6.md", "../../pp", "https://x.y/uvim/blob/main/pp"),
    ("docs/data.md", "../pp", "https://x.y/uvim/blob/main/pp"),
    ("docs/data.md", "#below", "#below"),
    ("docs/data.md", "https://a.b/c.md", "https://a.b/c.md"),
])
def test_links_are_moved_with_their_pages(page, link, moved):
  text = docs_site.move_links(f"See [it]({link}).", page, "https://x.y/uvim/")
  assert text == f"See [it]({moved})."


def test_the_site_is_built_without_a_warning(tmp_path):
  pytest.importorskip("mkdocs")
  pytest.importorskip("material")
  done = subprocess.run(
      [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir",
       tmp_path], cwd=ROOT, capture_output=True, text=True,
      env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
  assert done.returncode == 0, done.stderr
  start = (tmp_path / "index.html").read_text()
  assert 'href="data/"' in start and "rooms_uvim.png" in start
