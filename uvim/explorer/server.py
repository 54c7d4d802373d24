"""Answers the requests of the explorer's page.

  GET  /              the page
  GET  /info          what the model is; see `info` of the sessions
  POST /images        an uploaded file; gives `Gallery.describe`
  GET  /images/ID     the same of an image that is there

of a UViM:
  POST /predict       {"id", options, maybe "given"}; gives samples
  POST /decode        {"id", "code", options of the outputs}; gives the output
                      for a painted code

of a Pix2Seq-D:
  POST /predict       {"id", options}; gives a film, see `FilmSession.predict`
  POST /beside        {"id"}; gives what the other model answers

Every answer but the page is JSON. A mistake gives {"error": one line}.
"""

import asyncio
import base64
import hashlib
import pathlib
import re
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from uvim.cli import app
from uvim.explorer import incoming
from uvim.explorer.endpoints import Endpoint, make_endpoints
from uvim.explorer.gallery import Gallery
from uvim.explorer.incoming import Busy, Failed, Gone, OutOfMemory
from uvim.registry import ConfigError

_FOLDER = pathlib.Path(__file__).parent
MAX_UPLOAD_BYTES = 32 << 20
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# The names as a request has them.
_LOCAL_NAMES = ["127.0.0.1", "localhost", "[::1]"]
# How long a client may take to send its request.
BODY_SECONDS = 60.0
# Requests that are read, wait or compute at once. Each may hold an upload.
MAX_REQUESTS = 8
_HEADERS = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


def make_app(session: Gallery, *, max_bytes: int = MAX_UPLOAD_BYTES,
             any_host: bool = False, body_seconds: float = BODY_SECONDS,
             max_requests: int = MAX_REQUESTS) -> Any:
  """The Starlette application.

  Args:
    session: what it serves.
    max_bytes: of an upload.
    any_host: whether it answers to names other than this computer's own.
    body_seconds: how long a client may take to send its request.
    max_requests: how many are worked on at once; one more gets the status 503.
  """
  # Imported late: the package works without Starlette, but for the explorer.
  from starlette.applications import Starlette
  from starlette.middleware import Middleware
  from starlette.middleware.trustedhost import TrustedHostMiddleware
  from starlette.routing import Route
  endpoints = make_endpoints(session, max_bytes)
  answers = _Answers(body_seconds, max_requests)
  page = read_page(endpoints.script)
  routes = [
      Route("/", _page_endpoint(page)),
      Route("/info", answers.of(endpoints.info)),
      Route("/images/{number}", answers.of(endpoints.describe))]
  for path, endpoint in endpoints.posts.items():
    routes.append(Route(path, answers.of(endpoint), methods=["POST"]))
  # Another site must not reach us through a name of its own (DNS rebinding).
  hosts = ["*"] if any_host else _LOCAL_NAMES
  guard = Middleware(TrustedHostMiddleware, allowed_hosts=hosts)
  return Starlette(routes=routes, middleware=[guard])


def read_page(script_name: str) -> str:
  """The page with its style and its scripts inside: it loads nothing.

  Args:
    script_name: the file with the part that is of one kind of model.
  """
  page = (_FOLDER / "page.html").read_text()
  style = (_FOLDER / "page.css").read_text()
  script = (_FOLDER / "page.js").read_text()
  script += (_FOLDER / script_name).read_text()
  page = page.replace("/* page.css */\n", style)
  return page.replace("// page.js\n", script)


# ── Answers ─────────────────────────────────────────────────────────────────


def _page_endpoint(page: str) -> Callable[[Any], Awaitable[Any]]:
  from starlette.responses import HTMLResponse
  headers = {**_HEADERS, "Content-Security-Policy": _content_policy(page)}

  async def send_page(request):
    del request
    return HTMLResponse(page, headers=headers)

  return send_page


def _content_policy(page: str) -> str:
  """Only this page's own script and style run; nothing is loaded."""
  rules = [
      # Forbid everything, then allow what the page has.
      "default-src 'none'",
      f"script-src {_digests(page, 'script')}",
      f"style-src {_digests(page, 'style')}",
      "img-src data: blob:",
      "connect-src 'self'",
      "base-uri 'none'",
      "form-action 'none'",
      "frame-ancestors 'none'"]
  return "; ".join(rules)


def _digests(page: str, tag: str) -> str:
  """The hashes of the texts between all <tag> and </tag>."""
  sources = []
  for text in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL):
    # A browser runs an inline script only if its hash is in the policy. So text
    # that somebody smuggles into the page never runs.
    digest = hashlib.sha256(text.encode()).digest()
    encoded = base64.b64encode(digest).decode()
    sources.append(f"'sha256-{encoded}'")
  return " ".join(sources)


class _Answers:
  """Sends results as JSON and mistakes as one line.

  Any other error becomes a line too, and the server goes on.
  """

  def __init__(self, body_seconds: float, max_requests: int):
    self._body_seconds = body_seconds
    self._max_requests = max_requests
    self._num_requests = 0

  def of(self, endpoint: Endpoint) -> Callable[[Any], Awaitable[Any]]:
    """What Starlette calls for a request to this endpoint."""
    from starlette.responses import JSONResponse, Response

    async def send(request):
      request.state.body_seconds = self._body_seconds
      try:
        content = await self._run(endpoint, request)
        # It becomes a text here, which may fail too.
        return JSONResponse(content, headers=_HEADERS)
      except Gone:
        return Response()  # Nobody reads it.
      except asyncio.CancelledError:
        # The user ends the server, which waits no longer for this request.
        mistake = Busy("The server ends.")
      except Exception as error:  # noqa: BLE001 - it must not end the session.
        mistake = _as_mistake(error, endpoint.__name__)
      status = getattr(mistake, "status", 400)
      return JSONResponse({"error": str(mistake)}, status, headers=_HEADERS)

    return send

  async def _run(self, endpoint: Endpoint, request) -> dict[str, Any]:
    incoming.check_origin(request)
    # Before the body is read, since each may be large.
    if self._num_requests >= self._max_requests:
      raise Busy(f"The server works on {self._num_requests} requests already; "
                 "try again in a moment.")
    self._num_requests += 1
    try:
      return await endpoint(request)
    finally:
      self._num_requests -= 1


def _as_mistake(error: Exception, name: str) -> ConfigError:
  """What the client is told of an error; the terminal is told of ours.

  Args:
    error: what ended the request.
    name: of the endpoint.
  """
  if isinstance(error, ConfigError):
    return error
  if app.is_out_of_memory(error):
    first_line = str(error).partition("\n")[0]
    details = f" ({first_line})" if first_line else ""
    print(f"{name}: out of memory{details}", file=sys.stderr)
    return OutOfMemory("There is too little memory for this; fewer samples or "
                       "a smaller image need less.")
  traceback.print_exception(error)
  return Failed("This failed; the terminal tells more.")
