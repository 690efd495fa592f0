"""A server that answers as a test tells it to, and misbehaves where it does."""

import base64
import contextlib
import dataclasses
import http.server
import io
import json
import re
import socket
import struct
import threading
import time

import numpy as np
from PIL import Image

from jaxreward.data import prompts as batches
from jaxreward.rewards import REGISTRY
from jaxreward.tasks import free

KEY = "sk-very-secret-0123456789"


@dataclasses.dataclass(frozen=True)
class Ask:
  """A request: its texts, its pictures [H, W, 3] in [0, 1], its number."""

  body: dict
  headers: dict
  number: int

  @property
  def content(self):
    return self.body["messages"][0]["content"]

  @property
  def text(self):
    return "\n".join(c["text"] for c in self.content if c["type"] == "text")

  @property
  def pictures(self):
    urls = [
      c["image_url"]["url"] for c in self.content if c["type"] == "image_url"
    ]
    prefix = "data:image/png;base64,"
    assert all(url.startswith(prefix) for url in urls)
    files = [base64.b64decode(url.removeprefix(prefix)) for url in urls]
    return [np.asarray(Image.open(io.BytesIO(f))) / 255 for f in files]

  @property
  def red(self):
    return [float(x[..., 0].mean()) for x in self.pictures]


@dataclasses.dataclass(frozen=True)
class Reply:
  """What goes back: a status, a body, or no proper reply at all."""

  body: object = b""
  status: int = 200
  headers: dict = dataclasses.field(default_factory=dict)
  wait: float = 0.0
  reset: bool = False
  length: int | None = None


def said(text, tokens=None, total=10):
  """A reply with this answer."""
  choice = {"message": {"role": "assistant", "content": text}}
  if tokens is not None:
    choice["logprobs"] = {
      "content": [
        {
          "token": token,
          "logprob": top.get(token, -9.0),
          "top_logprobs": [{"token": t, "logprob": p} for t, p in top.items()],
        }
        for token, top in tokens
      ]
    }
  return Reply({"choices": [choice], "usage": {"total_tokens": total}})


def scored(x):
  return said(json.dumps({"score": x}))


class Server:
  """Counts what it is asked, and how much of it at a time."""

  def __init__(self, answer):
    self.answer, self.asks, self.most = answer, [], 0
    self._busy, self._lock = 0, threading.Lock()
    outer = self

    class Handler(http.server.BaseHTTPRequestHandler):
      def do_POST(self):
        outer.handle(self)

      def log_message(self, *args):
        pass

    class Quiet(http.server.ThreadingHTTPServer):
      daemon_threads = True
      request_queue_size = 64

      def handle_error(self, *args):
        pass

    self._server = Quiet(("127.0.0.1", 0), Handler)
    self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
    self._thread = threading.Thread(
      target=self._server.serve_forever, args=(0.01,), daemon=True
    )
    self._thread.start()

  @property
  def count(self):
    return len(self.asks)

  def close(self):
    self._server.shutdown()
    self._server.server_close()

  def handle(self, request):
    assert request.path == "/v1/chat/completions"
    data = request.rfile.read(int(request.headers["Content-Length"]))
    with self._lock:
      ask = Ask(json.loads(data), dict(request.headers), len(self.asks))
      self.asks.append(ask)
      self._busy += 1
      self.most = max(self.most, self._busy)
    try:
      reply = self.answer(ask)
      time.sleep(reply.wait)
    finally:
      with self._lock:
        self._busy -= 1
    if reply.reset:
      linger = struct.pack("ii", 1, 0)
      request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
      request.rfile.close()
      request.wfile.close()
      request.connection.close()
      request.close_connection = True
      return
    body = reply.body
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    length = len(body) if reply.length is None else reply.length
    with contextlib.suppress(OSError):
      request.send_response(reply.status)
      for name, value in {"Content-Length": length, **reply.headers}.items():
        request.send_header(name, str(value))
      request.end_headers()
      request.wfile.write(body)
      request.close_connection = True


QUICK = dict(model="tiny", backoff=0.002, timeout=5.0)


class Loaded:
  """A judge as a run has it: options checked, bound to a server."""

  def __init__(self, name, url, folder, **options):
    self.fn = REGISTRY[name]
    self.loaded = self.fn.loads(folder=folder, url=url, **{**QUICK, **options})
    self.judge = self.loaded.static["judge"]

  def __call__(self, images, texts, rows=None):
    prompts = batches.batch([free.parse(t) for t in texts], rows)
    texts = [*texts, *[""] * (len(prompts.mask) - len(texts))]
    context = self.loaded.prepare(texts)
    found = self.fn(images, prompts, **self.loaded.static, **context)
    return found["judge"]

  @property
  def used(self):
    return self.judge._budget.used


def reds(values, side=4):
  """Pictures [P, G, side, side, 3] of these shares of red, in steps of 1/255."""
  values = np.asarray(values, np.float32)
  images = np.zeros((*values.shape, side, side, 3), np.float32)
  images[..., 0] = values[..., None, None]
  return images


def levels(count):
  """So many different reds that a PNG keeps exactly."""
  return np.arange(1, count + 1, dtype=np.float32) * 5 / 255


def numbers(text):
  return [float(x) for x in re.findall(r"-?\d+\.?\d*", text)]
