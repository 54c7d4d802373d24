"""What comes to the explorer: reads it, and refuses what is wrong."""

import asyncio
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from uvim.registry import ConfigError

MAX_JSON_BYTES = 1 << 20
# A float cannot hold larger whole numbers exactly. No option needs them.
_MAX_INTEGER = 2**53


class Refused(ConfigError):
  """A request that is refused with a status of its own."""

  status = 400


class TooLarge(Refused):
  """A request whose body exceeds the limit."""

  status = 413


class TooSlow(Refused):
  """A request whose body does not come."""

  status = 408


class Busy(Refused):
  """A request that the server has no time for."""

  status = 503


class OutOfMemory(Refused):
  """A request that needs more memory than there is."""

  status = 503


class Failed(Refused):
  """A request that ends in a fault of ours."""

  status = 500


class Gone(Exception):
  """The client went away; nobody waits for an answer."""


def check_origin(request) -> None:
  """Raises a ConfigError if a page of another site sends the request."""
  # A browser says so of every request, images included, which name no origin.
  site = request.headers.get("sec-fetch-site", "none")
  if site in ("cross-site", "same-site"):
    raise ConfigError("Requests of other pages are refused.")
  # It names the page that asks. Other clients send no such header.
  origin = request.headers.get("origin")
  if not origin:
    return
  _, _, host = origin.partition("://")
  if host != request.headers.get("host"):
    raise ConfigError("Requests of other pages are refused.")


async def read_body(request, limit: int) -> io.BytesIO:
  """The body of a request.

  Raises:
    TooLarge: as soon as it exceeds the limit.
    TooSlow: it is not complete in time.
    Gone: the client went away.
  """
  from starlette.requests import ClientDisconnect
  seconds = request.state.body_seconds
  body = io.BytesIO()
  try:
    async with asyncio.timeout(seconds):
      # Count what really comes: the announced length may be missing or a lie.
      async for part in request.stream():
        if body.tell() + len(part) > limit:
          raise TooLarge(f"The upload is larger than {limit / 2**20:.3g} MB.")
        body.write(part)
  except TimeoutError:
    raise TooSlow(f"The request did not come within {seconds:g} s.") from None
  except ClientDisconnect:
    raise Gone from None
  body.seek(0)
  return body


async def read_json(request) -> dict[str, Any]:
  body = await read_body(request, MAX_JSON_BYTES)
  try:
    content = json.loads(body.getvalue(), parse_int=_parse_integer)
  # From `_parse_integer`. ConfigError is a ValueError too, so it goes first.
  except ConfigError:
    raise
  except (ValueError, RecursionError) as error:
    raise ConfigError("The request is not JSON.") from error
  if not isinstance(content, dict):
    raise ConfigError("The request must be a JSON object.")
  return content


def _parse_integer(digits: str) -> int:
  # Python refuses to read thousands of digits; no option needs them.
  too_long = len(digits) > 20
  if too_long or abs(int(digits)) > _MAX_INTEGER:
    raise ConfigError(f"{digits[:20]}…: whole numbers must lie within "
                      f"±{_MAX_INTEGER}.")
  return int(digits)


def check_names(given: dict[str, Any], known: Sequence[str]) -> None:
  """Raises a ConfigError for a name that this request cannot have."""
  for name in given:
    if name not in known:
      raise ConfigError(f"{name!r} is no option here; known: "
                        f"{', '.join(known)}.")


def text(given: dict[str, Any], name: str) -> str:
  value = given.get(name)
  if not isinstance(value, str):
    raise ConfigError(f"{name} = {value!r}; it must be a text.")
  return value


def only(given: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
  return {name: given[name] for name in names if name in given}


def code(given: dict[str, Any], name: str) -> list[int]:
  code = given.get(name)
  if not isinstance(code, list) or not all(map(_is_word, code)):
    raise ConfigError(f"{name} must be a list of whole numbers.")
  return code


def _is_word(value: Any) -> bool:
  # `type`, because True is an instance of int.
  return type(value) is int and abs(value) < 2**31
