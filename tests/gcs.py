"""A bucket server: what gcsfs, TensorStore and Google's client ask of GCS.

Speaks the part of the JSON API (cloud.google.com/storage/docs/json_api) that
they use: buckets, objects with generations and preconditions, listings with
prefix and delimiter, media, multipart and resumable uploads, ranges, copies.
"""

import base64
import contextlib
import email
import hashlib
import http.server
import itertools
import json
import os
import re
import threading
import urllib.parse

TIME = "2026-01-01T00:00:00.000Z"


class Bucket:
  """Objects by name, each the only one of its generation.

  Attributes:
    objects: name -> (generation, content).
    unknown: requests that this server does not understand.
    is_closed: whether nobody may read or write.
  """

  def __init__(self, name):
    self.name = name
    self.objects: dict[str, tuple[int, bytes]] = {}
    self.unknown: list[str] = []
    self.is_closed = False
    self.lock = threading.RLock()
    self.sessions: dict[str, tuple[str, dict, bytearray]] = {}
    self._next = itertools.count(1)

  def read(self, name) -> bytes | None:
    with self.lock:
      return self.objects[name][1] if name in self.objects else None

  def generation(self, name) -> int:
    return self.objects[name][0] if name in self.objects else 0

  def put(self, name, data, query) -> dict | None:
    """Metadata; None if a precondition does not hold."""
    with self.lock:
      asked = query.get("ifGenerationMatch")
      if asked is not None and int(asked) != self.generation(name):
        return None
      self.objects[name] = (next(self._next), bytes(data))
      return self.describe(name)

  def describe(self, name) -> dict:
    generation, data = self.objects[name]
    return {
      "kind": "storage#object",
      "id": f"{self.name}/{name}/{generation}",
      "bucket": self.name,
      "name": name,
      "size": str(len(data)),
      "generation": str(generation),
      "metageneration": "1",
      "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
      "contentType": "application/octet-stream",
      "timeCreated": TIME,
      "updated": TIME,
    }

  def list(self, query) -> dict:
    """One page; `maxResults` and pageToken as GCS has them."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    start, end = query.get("startOffset", ""), query.get("endOffset", "")
    found: dict[str, dict | None] = {}
    with self.lock:
      for name in sorted(self.objects):
        if not name.startswith(prefix) or name < start or (end and name >= end):
          continue
        rest = name[len(prefix) :]
        if delimiter and delimiter in rest:
          found[prefix + rest.split(delimiter)[0] + delimiter] = None
        else:
          found[name] = self.describe(name)
    after = query.get("pageToken", "")
    names = [name for name in sorted(found) if name > after]
    page = names[: int(query.get("maxResults", 1000))]
    out = {
      "kind": "storage#objects",
      "items": [found[n] for n in page if found[n]],
      "prefixes": [n for n in page if not found[n]],
    }
    return out | ({"nextPageToken": page[-1]} if len(page) < len(names) else {})


class Handler(http.server.BaseHTTPRequestHandler):
  """One connection, kept open."""

  protocol_version = "HTTP/1.1"
  bucket: Bucket

  def log_message(self, format, *args):
    pass

  def handle(self):
    with contextlib.suppress(ConnectionError):  # clients cancel, and are killed
      super().handle()

  def answer(self, code, body=b"", **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    self.send_response(code)
    kind = "application/octet-stream" if body is data else "application/json"
    self.send_header("Content-Type", kind)
    self.send_header("Content-Length", str(len(data)))
    for name, value in headers.items():
      self.send_header(name.replace("_", "-"), str(value))
    self.end_headers()
    self.wfile.write(data)

  def error(self, code, message):
    self.answer(code, {"error": {"code": code, "message": message}})

  def body(self) -> bytes:
    if "chunked" in self.headers.get("Transfer-Encoding", ""):
      data = b""
      while size := int(self.rfile.readline(), 16):
        data += self.rfile.read(size)
        self.rfile.readline()
      self.rfile.readline()
      return data
    return self.rfile.read(int(self.headers.get("Content-Length", 0)))

  def route(self):
    url = urllib.parse.urlsplit(self.path)
    query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
    data = self.body()
    place = re.fullmatch(
      r"(/upload|/download)?/storage/v1/b/([^/]+)(?:/(o|storageLayout)"
      r"(?:/([^/]+)(?:/(rewriteTo|copyTo)/b/[^/]+/o/([^/]+))?)?)?",
      url.path,
    )
    if not place:
      self.bucket.unknown.append(f"{self.command} {self.path}")
      return self.error(501, "this server does not know that")
    kind, bucket, what, name, copy, target = place.groups()
    if urllib.parse.unquote(bucket) != self.bucket.name:
      return self.error(404, "The specified bucket does not exist.")
    if self.bucket.is_closed:
      return self.error(403, "no access")
    name = urllib.parse.unquote(name or "")
    if what is None:
      return self.answer(200, {"kind": "storage#bucket", "name": bucket})
    if what == "storageLayout":
      return self.answer(200, {"bucket": bucket, "locationType": "region"})
    if copy:
      return self.copy(name, urllib.parse.unquote(target))
    if kind == "/upload":
      return self.upload(query, data)
    if self.command == "GET":
      return self.get(name, query) if name else self.answer(
        200, self.bucket.list(query)
      )  # fmt: skip
    if self.command == "DELETE":
      return self.delete(name)
    self.bucket.unknown.append(f"{self.command} {self.path}")
    return self.error(501, "this server does not know that")

  do_GET = do_POST = do_PUT = do_DELETE = route

  def get(self, name, query):
    with self.bucket.lock:
      if name not in self.bucket.objects:
        return self.error(404, f"No such object: {name}")
      generation, data = self.bucket.objects[name]
      described = self.bucket.describe(name)
    if query.get("ifGenerationMatch", str(generation)) != str(generation):
      return self.error(412, "precondition")
    if query.get("ifGenerationNotMatch") == str(generation):
      return self.answer(304)
    if query.get("alt") != "media":
      return self.answer(200, described)
    facts = {"x_goog_generation": generation}
    asked = re.fullmatch(
      r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")
    )  # fmt: skip
    if not asked:
      return self.answer(200, data, **facts)
    first, last = asked.groups()
    start = int(first) if first else max(len(data) - int(last), 0)
    stop = min(int(last) + 1, len(data)) if first and last else len(data)
    if start >= len(data):
      return self.error(416, "range")
    facts["Content_Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    return self.answer(206, data[start:stop], **facts)

  def delete(self, name):
    with self.bucket.lock:
      if self.bucket.objects.pop(name, None) is None:
        return self.error(404, f"No such object: {name}")
    return self.answer(204)

  def copy(self, name, target):
    data = self.bucket.read(name)
    if data is None:
      return self.error(404, f"No such object: {name}")
    resource = self.bucket.put(target, data, {})
    return self.answer(
      200,
      {"kind": "storage#rewriteResponse", "done": True, "resource": resource},
    )

  def stored(self, name, data, query):
    found = self.bucket.put(name, data, query)
    if found is None:
      return self.error(412, "precondition")
    return self.answer(200, found)

  def upload(self, query, data):
    kind = query.get("uploadType")
    if "upload_id" in query:
      return self.go_on(query["upload_id"], data)
    if kind == "media":
      return self.stored(query["name"], data, query)
    if kind == "multipart":
      head = f"Content-Type: {self.headers['Content-Type']}\n\n".encode()
      # Bytes after the blank line are the object's own, line ends and all.
      boundary = email.message_from_bytes(head).get_boundary().encode()
      mark = rb"\r?\n?--" + re.escape(boundary)
      _, first, rest = re.split(mark, data, maxsplit=2)
      fields = json.loads(re.split(rb"\r?\n\r?\n", first, maxsplit=1)[1])
      content = re.split(rb"\r?\n\r?\n", rest, maxsplit=1)[1]
      content = re.sub(mark + rb"--(\r?\n)?$", b"", content)
      return self.stored(query.get("name") or fields["name"], content, query)
    fields = json.loads(data or b"{}")
    session = str(len(self.bucket.sessions))
    name = query.get("name") or fields["name"]
    self.bucket.sessions[session] = (name, query, bytearray())
    place = f"http://{self.headers['Host']}/upload/storage/v1/b/"
    place += f"{self.bucket.name}/o?uploadType=resumable&upload_id={session}"
    return self.answer(200, Location=place)

  def go_on(self, session, data):
    name, query, content = self.bucket.sessions[session]
    content += data
    size = self.headers.get("Content-Range", "bytes */*").split("/")[1]
    if size == "*" or len(content) < int(size):
      return self.answer(308, Range=f"bytes=0-{len(content) - 1}")
    return self.stored(name, content, query)


@contextlib.contextmanager
def serve(name):
  """(bucket, environment of processes that are to find it here)."""
  bucket = Bucket(name)
  handler = type("Bound", (Handler,), {"bucket": bucket})
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
  server.daemon_threads = True
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  try:
    yield bucket, environment(server.server_address[1])
  finally:
    server.shutdown()
    server.server_close()


def environment(port) -> dict[str, str]:
  """Of a process that takes 127.0.0.1 for Google's servers."""
  place = f"http://127.0.0.1:{port}"
  return os.environ | {
    "STORAGE_EMULATOR_HOST": place,
    "TENSORSTORE_GCS_HTTP_URL": place,
    "GCE_METADATA_HOST": f"127.0.0.1:{port}",  # no credentials are there
    "NO_GCE_CHECK": "true",
    "NO_PROXY": "127.0.0.1",
  }
