"""Requests to the explorer's application, without a network."""

import asyncio
import io

import httpx
import numpy as np
from PIL import Image

from uvim.explorer import server
from uvim.explorer.session import Session


def noise_image(height=20, width=31, seed=0):
  return np.random.default_rng(seed).integers(
      0, 256, (height, width, 3), np.uint8)


def png(image, **kwargs):
  out = io.BytesIO()
  Image.fromarray(image).save(out, "PNG", **kwargs)
  return out.getvalue()


class Variant:
  """A model with other attributes than those of the real one."""

  def __init__(self, uvim, **attributes):
    self._uvim = uvim
    self.__dict__.update(attributes)

  def __getattr__(self, name):
    return getattr(self._uvim, name)


class Client:
  """Requests to an app of its own.

  Attributes:
    session: what the app serves.
  """

  def __init__(self, uvim, *, make_session=Session, **kwargs):
    self.session = make_session(uvim, "tiny")
    self.app = server.make_app(self.session, **kwargs)

  def reply(self, method, path, **kwargs):
    async def send():
      async with httpx.AsyncClient(
          transport=httpx.ASGITransport(app=self.app),
          base_url=kwargs.pop("base", "http://localhost")) as client:
        return await client.request(method, path, **kwargs)

    return asyncio.run(send())

  def get(self, path):
    out = self.reply("GET", path)
    assert out.status_code == 200, out.text
    return out.json()

  def post(self, path, given):
    out = self.reply("POST", path, json=given)
    assert out.status_code == 200, out.text
    return out.json()

  def upload(self, data):
    return self.reply("POST", "/images", content=data)

  def refuses(self, method, path, status=400, **kwargs):
    out = self.reply(method, path, **kwargs)
    assert out.status_code == status
    error = out.json()["error"]
    assert "\n" not in error and "Traceback" not in error
    return error
