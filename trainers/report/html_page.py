"""Pieces of one HTML page that opens offline: it loads nothing.

Every function but `write_html` returns HTML.
"""

import base64
import html
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from uvim import files

# Colors are variables, so that a dark screen changes only these.
STYLE = """
:root { color-scheme: light dark; --ink: #1d2127; --faint: #6b7280;
        --line: #e3e6ea; --paper: #fff; --card: #f7f8fa; --alarm: #b42318 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --faint: #9aa3ad;
        --line: #2f353d; --paper: #14171b; --card: #1c2026; --alarm: #ff8a7a } }
body { font: 15px/1.55 system-ui, sans-serif; margin: 2.5em auto;
       max-width: 64em; padding: 0 1.2em; color: var(--ink);
       background: var(--paper); overflow-wrap: anywhere }
h1 { font-size: 1.7em; margin: 1.6em 0 .4em } h1:first-of-type { margin-top: 0 }
h2 { font-size: 1.15em; margin: 2em 0 .6em; padding-bottom: .25em;
     border-bottom: 1px solid var(--line) }
p { margin: .4em 0 } .faint, figcaption { color: var(--faint) }
table { border-collapse: collapse; margin: .6em 0; display: block;
        max-width: 100%; overflow-x: auto }
th { font-weight: 600; text-align: left }
th, td { padding: .3em 1.6em .3em 0; border-bottom: 1px solid var(--line);
         vertical-align: top }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
td.number, td:first-child { overflow-wrap: normal }
.alarm { border-left: 4px solid var(--alarm); padding: .4em .9em;
         background: var(--card); margin: .5em 0 }
.finding { border-left: 4px solid var(--line); padding: .4em .9em;
           background: var(--card); margin: .5em 0 }
.plots { display: grid; gap: .8em; grid-template-columns:
         repeat(auto-fill, minmax(min(24em, 100%), 1fr)) }
.plots svg { background: var(--card); border-radius: 6px; width: 100% }
svg text { font: 11px system-ui, sans-serif; fill: var(--ink) }
svg .title { font-weight: 600; font-size: 13px }
svg .end { text-anchor: end } svg .middle { text-anchor: middle }
svg .faint { fill: var(--faint) } svg .grid { stroke: var(--line) }
figure { margin: .8em 0 } img { max-width: 100%; display: block }
summary { cursor: pointer; margin: .3em 0 }
pre { font-size: 12px; overflow-x: auto; background: var(--card); padding: 1em;
      border-radius: 6px }
@media (max-width: 40em) {
  body { margin: 1em auto; padding: 0 .8em }
  th, td { padding-right: .7em; font-size: 13px } }
"""


def write_html(path: str | os.PathLike, title: str,
               parts: Iterable[str]) -> None:
  """Writes a page; readers never see half of it.

  Args:
    path: of the file.
    title: text for the browser's tab.
    parts: HTML of the body.
  """
  # HTML lets <head> and <body> be left out.
  opening = [
      "<!doctype html><html lang=en><meta charset=utf-8>",
      '<meta name=viewport content="width=device-width">',
      f"<title>{html.escape(title)}</title><style>{STYLE}</style>"]
  text = "\n".join([*opening, *parts])
  files.write_text(path, text + "\n")


def heading(text: str, level: int = 2) -> str:
  return f"<h{level}>{html.escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
  """A paragraph; `kind` is a class of STYLE."""
  return f'<p class="{kind}">{html.escape(text)}</p>'


def table(rows: Iterable[Sequence[str]], header: Sequence[str] = (), *,
          numbers: bool = False) -> str:
  """Rows of text.

  Args:
    rows: each the texts of its cells.
    header: titles of the columns, or nothing.
    numbers: whether all columns but the first hold numbers.
  """
  parts = ["<table>"]
  if header:
    parts.append(_table_row(header, "th", numbers))
  for cells in rows:
    parts.append(_table_row(cells, "td", numbers))
  parts.append("</table>")
  return "\n".join(parts)


def _table_row(cells, tag, numbers) -> str:
  parts = []
  for column, cell in enumerate(cells):
    # The first column names the row.
    kind = ' class="number"' if numbers and column > 0 else ""
    parts.append(f"<{tag}{kind}>{html.escape(cell)}</{tag}>")
  return f"<tr>{''.join(parts)}</tr>"


def plot_grid(svgs: Iterable[str]) -> str:
  """Plots beside and below each other."""
  return "\n".join(['<div class="plots">', *svgs, "</div>"])


def figure(path: str | os.PathLike, caption: str) -> str:
  """A PNG file with a caption."""
  # The page must open offline and alone: it holds the image itself.
  content = pathlib.Path(path).read_bytes()
  # As text inside the page, which a browser reads like a file.
  data = base64.b64encode(content).decode()
  # Escaped once, for the attribute and for the text.
  text = html.escape(caption)
  return (f'<figure><img alt="{text}" src="data:image/png;base64,{data}">'
          f"<figcaption>{text}</figcaption></figure>")


def folded(title: str, *parts: str) -> str:
  """HTML that a click on the title opens."""
  summary = f"<summary>{html.escape(title)}</summary>"
  # Without JavaScript: the browser itself folds <details>.
  return "\n".join(["<details>", summary, *parts, "</details>"])


def as_json(value: Any) -> str:
  """A value that JSON can hold, as it would stand in a file."""
  return f"<pre>{html.escape(json.dumps(value, indent=1))}</pre>"
