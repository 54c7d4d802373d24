"""Hooks of mkdocs.yml: make one site of docs/ and the pages above it.

README.md, CONTRIBUTING.md and CHANGELOG.md lie in the root of the repository,
where people look for them. mkdocs knows only files of docs/. So these pages are
added, and links are changed to where each page is on the site. Links to source
files lead to the repository.
"""

import pathlib
import posixpath
import re
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
ROOT_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")

_DOCS = "docs/"
# The end of `[text](target)` or `![text](target)`.
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
  """Adds the pages of the root; mkdocs calls it once."""
  from mkdocs.structure.files import File
  for name in ROOT_PAGES:
    page = File.generated(config, name, abs_src_path=str(ROOT / name))
    files.append(page)
  return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
  """Changes the links of a page; mkdocs calls it for each page."""
  del files
  name = page.file.src_uri
  path = name if name in ROOT_PAGES else _DOCS + name
  return move_links(markdown, path, config.repo_url)


def move_links(markdown: str, path: str, repository: str) -> str:
  """The text of a page with its links as the site needs them.

  Args:
    markdown: the text.
    path: of the page in the repository, such as "docs/data.md".
    repository: address to which links to source files lead.
  """
  folder = posixpath.dirname(path)

  def moved(link: re.Match) -> str:
    target = _target_on_site(link[1], folder, repository.rstrip("/"))
    return f"]({target})"

  return _LINK.sub(moved, markdown)


def _target_on_site(target: str, folder: str, repository: str) -> str:
  """Where a link of a page in `folder` leads to on the site."""
  file, hash_sign, anchor = target.partition("#")
  is_elsewhere = "://" in target or target.startswith("mailto:")
  # A link without a file stays on its page.
  if is_elsewhere or not file:
    return target
  path = posixpath.normpath(posixpath.join(folder, file))
  if path.startswith(_DOCS) or path in ROOT_PAGES:
    path = posixpath.relpath(_place_on_site(path), _place_on_site(folder))
  else:
    path = f"{repository}/blob/main/{path}"
  return path + hash_sign + anchor


def _place_on_site(path: str) -> str:
  """Where a page or a folder of the repository is on the site."""
  if path.startswith(_DOCS):
    return path.removeprefix(_DOCS)
  # The folder of the docs themselves is the root of the site.
  if path + "/" == _DOCS:
    return "."
  return path or "."
