"""One HTML page of a run that opens offline: table, pictures, curves."""

import base64
import html
import io
import json
import os
import pathlib

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 62em;
       padding: 0 1em; color: #222; background: #fff }
h1, h2 { font-weight: 600 } h2 { margin-top: 2em }
table { border-collapse: collapse }
td { padding: .25em 1.5em .25em 0; border-bottom: 1px solid #ddd }
td:last-child { text-align: right; font-variant-numeric: tabular-nums }
img { max-width: 100%; display: block; margin: .5em 0 }
.curves { display: grid; grid-template-columns: 1fr 1fr; gap: .5em }
pre { font-size: 12px; overflow-x: auto; background: #f6f6f6; padding: 1em }
"""


def write(path, title: str, *, table, curves, pictures, settings) -> None:
  """Writes the page.

  Args:
    path: the file to write; replaced atomically.
    title: heading of the page.
    table: (name, value) rows, as text.
    curves: plot title → {series: [(step, value), …]}.
    pictures: caption → path of a PNG.
    settings: name → JSON object, shown folded.
  """
  parts = ["<!doctype html><meta charset=utf-8>",
           f"<title>{html.escape(title)}</title><style>{STYLE}</style>",
           f"<h1>{html.escape(title)}</h1><table>"]
  parts += [f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td>"
            "</tr>" for name, value in table]
  parts.append("</table>")
  for caption, picture in pictures.items():
    parts += [f"<h2>{html.escape(caption)}</h2>",
              _img(pathlib.Path(picture).read_bytes(), caption)]
  parts.append('<h2>Curves</h2><div class="curves">')
  parts += [_img(_plot(name, series), name) for name, series in curves.items()]
  parts.append("</div><h2>Settings</h2>")
  parts += [f"<details><summary>{html.escape(name)}</summary><pre>"
            f"{html.escape(json.dumps(value, indent=1))}</pre></details>"
            for name, value in settings.items()]
  new = pathlib.Path(f"{path}.tmp")
  new.write_text("\n".join(parts))
  os.replace(new, path)


def _img(png: bytes, alt: str) -> str:
  data = base64.b64encode(png).decode()
  return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def _plot(title: str, series) -> bytes:
  """A small line plot as PNG."""
  from matplotlib.figure import Figure
  figure = Figure(figsize=(5, 3), dpi=110, layout="constrained")
  axes = figure.subplots()
  for name, points in series.items():
    steps, values = zip(*points, strict=True)
    marker = "o" if len(points) < 20 else None
    axes.plot(steps, values, label=name, marker=marker, markersize=3)
  axes.set_title(title, fontsize=10)
  axes.set_xlabel("step", fontsize=9)
  axes.grid(alpha=0.3)
  if len(series) > 1:
    axes.legend(fontsize=8, frameon=False)
  out = io.BytesIO()
  figure.savefig(out, format="png")
  return out.getvalue()
