"""The page of a run: what it answers, whom it refuses, and what a vote leaves."""

import http.client
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from jaxreward import main
from jaxreward.data import preference_files
from jaxreward.errors import UserError
from jaxreward.report import grids, serve, votes

SEED = 3


def make_run(folder, count=3):
  """A folder with `count` pairs of cards and two samples of a prompt."""
  rng = np.random.default_rng(0)
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps({"seed": SEED}))
  images = rng.integers(0, 255, (2, count, 8, 8, 3), np.uint8)
  texts = [{"prompt": f"prompt {i}", "kind": "one"} for i in range(count)]
  grids.save_cards(folder / "grids" / "cards.npz", *images, texts)
  (folder / "samples").mkdir()
  rows = []
  for i in range(2):
    name = f"0000-{i}.png"
    (folder / "samples" / name).write_bytes(grids.png(images[0, i]))
    rows.append({"file": name, "prompt": "sampled"})
  (folder / "samples.json").write_text(json.dumps(rows))
  return folder


class Client:
  """Requests to a server that runs in this process."""

  def __init__(self, server):
    self.port = server.server_port
    self.token = server.run.token

  def __call__(self, method, path, body=None, **headers):
    """(status, headers, content) of an answer."""
    names = {k.replace("_", "-"): v for k, v in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
    connection.request(method, path, body, names)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content

  def get(self, path):
    status, _, content = self("GET", path)
    assert status == 200
    return json.loads(content)

  def vote(self, pair, choice, **headers):
    body = json.dumps({"pair": pair, "choice": choice})
    return self("POST", "/vote", body, **({"X_Token": self.token} | headers))


@pytest.fixture
def run(tmp_path):
  """(folder of a run, client of its server)."""
  folder = make_run(tmp_path / "run")
  with serve.make_server(folder, 0) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, Client(server)
    server.shutdown()


def rows_of(folder):
  text = (folder / "votes" / "votes.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_every_vote_becomes_a_row_that_the_reader_of_preferences_reads(run):
  folder, client = run
  before = grids.load_cards(folder / "grids" / "cards.npz")[0]
  choices = ["left", "right", "tie", "neither"]
  asked = []
  for choice in choices:
    pair = client.get("/pair")
    assert set(pair) == {"id", "prompt", "left", "right", "source"}
    assert "before" not in json.dumps(pair)
    asked.append(pair)
    assert client.vote(pair["id"], choice)[0] == 200
  assert client.get("/pair") == {}
  state = client.get("/state")
  assert (state["pairs"], state["left"], state["votes"]) == (4, 0, 4)

  rows = list(preference_files.read_rows(folder / "votes" / "votes.jsonl"))
  assert [r.prompt for r in rows] == [p["prompt"] for p in asked]
  expected = {"left": 1.0, "right": 0.0, "tie": 0.5, "neither": 0.5}
  for row, choice in zip(rows, choices, strict=True):
    assert row.prob[0, 1] == expected[choice]
  assert rows[3].rating == (0.0, 0.0)  # neither is good
  by_prompt = {f"prompt {i}": image for i, image in enumerate(before)}
  for row, written in zip(rows, rows_of(folder), strict=True):
    for side, image in zip(("image_a", "image_b"), row.images, strict=True):
      assert image.path == str(folder / "votes" / written[side])
    if row.prompt != "sampled":
      assert sorted(row.models) == ["after", "before"]
      place = row.models.index("before")
      shown = np.asarray(Image.open(row.images[place].path))
      np.testing.assert_array_equal(shown, by_prompt[row.prompt])


def test_sides_and_order_come_from_the_seed(tmp_path):
  folder = make_run(tmp_path / "run", count=40)
  ids = lambda pairs: [p.id for p in pairs]
  first, again, other = (
    votes.Votes(folder, seed).pairs() for seed in (1, 1, 2)
  )
  assert first == again
  assert ids(first) != ids(other) and set(ids(first)) == set(ids(other))
  is_left = np.mean([p.models[0] == "before" for p in first if p.models[0]])
  assert 0.2 < is_left < 0.8
  sides = {p.id: p.images for p in other}
  assert any(sides[p.id] != p.images for p in first)


def test_a_pair_has_one_vote(run):
  folder, client = run
  pair = client.get("/pair")["id"]
  assert client.vote(pair, "left")[0] == 200
  status, _, content = client.vote(pair, "right")
  assert status == 409 and b"has a vote" in content
  assert client.vote("0" * 32, "left")[0] == 409
  assert client.vote(client.get("/pair")["id"], "both")[0] == 409
  assert len(rows_of(folder)) == 1


def test_a_line_that_was_cut_off_is_dropped_and_others_stay(run):
  folder, client = run
  client.vote(client.get("/pair")["id"], "left")
  file = folder / "votes" / "votes.jsonl"
  whole = file.read_bytes()
  file.write_bytes(whole + b'{"prompt": "pro')
  client.vote(client.get("/pair")["id"], "right")
  assert file.read_bytes().startswith(whole)
  assert len(rows_of(folder)) == 2


def test_a_line_that_lacks_its_end_alone_is_a_vote(run):
  folder, client = run
  client.vote(client.get("/pair")["id"], "left")
  file = folder / "votes" / "votes.jsonl"
  file.write_bytes(file.read_bytes().rstrip())
  client.vote(client.get("/pair")["id"], "right")
  assert [r["label"] for r in rows_of(folder)] == ["a", "b"]


def test_a_pair_whose_images_the_run_has_replaced_has_no_vote(
  tmp_path, monkeypatch
):
  folder = make_run(tmp_path / "run")
  pairs = votes.Votes(folder)
  monkeypatch.setattr(pairs, "png", lambda digest: None)
  with pytest.raises(UserError, match="no longer there"):
    pairs.add(pairs.next().id, "left")
  assert not (folder / "votes").exists()


def test_one_vote_after_the_other_writes_its_images(tmp_path, monkeypatch):
  """Two threads would write one temporary file."""
  pairs = votes.Votes(make_run(tmp_path / "run"))
  write = votes._write_once

  def alone(*args):
    assert pairs._lock.locked()
    write(*args)

  monkeypatch.setattr(votes, "_write_once", alone)
  pairs.add(pairs.next().id, "left")
  assert len(pairs.judged()) == 1


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  ("headers", "status"),
  [
    ({"X_Token": "x"}, 403),
    ({"X_Token": ""}, 403),
    ({"Host": "evil.example"}, 403),
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Sec_Fetch_Site": "cross-site"}, 403),
    ({"Content_Length": "9999"}, 413),
    ({"Content_Length": "\u00b2"}, 413),
  ],
)
def test_a_vote_from_elsewhere_is_refused(run, headers, status):
  folder, client = run
  pair = client.get("/pair")["id"]
  assert client.vote(pair, "left", **headers)[0] == status
  assert not (folder / "votes").exists()


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  "path",
  [
    "/config.json",
    "/../config.json",
    "/image/../../config.json",
    "/image/..%2f..%2fconfig.json",
    "//etc/passwd",
    "/grids/cards.npz",
  ],
)
def test_only_known_pages_are_served(run, path):
  assert run[1]("GET", path)[0] == 404


def test_another_name_of_the_machine_is_refused(run):
  status, _, content = run[1]("GET", "/", Host="evil.example:80")
  assert status == 403 and b"token" not in content


def test_the_page_runs_its_own_script_alone(run):
  _, headers, content = run[1]("GET", "/")
  policy = headers["Content-Security-Policy"]
  nonce = policy.partition("script-src 'nonce-")[2].partition("'")[0]
  text = content.decode()
  assert f'<script nonce="{nonce}">' in text and "{{" not in text
  assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
  assert run[1].token in text
  other = run[1]("GET", "/")[1]["Content-Security-Policy"]
  assert nonce not in other


def test_the_report_is_served_without_scripts_and_never_from_outside(run):
  folder, client = run
  assert client("GET", "/report.html")[0] == 404
  secret = folder.parent / "secret.html"
  secret.write_text("secret")
  os.symlink(secret, folder / "report.html")
  assert client("GET", "/report.html")[0] == 404
  (folder / "report.html").unlink()
  (folder / "report.html").write_text("<p>report</p>")
  status, headers, content = client("GET", "/report.html?version=1")
  assert status == 200 and content == b"<p>report</p>"
  assert headers["Content-Security-Policy"].startswith("sandbox;")
  assert client.get("/state")["report"]


def test_metrics_come_in_parts_and_again_when_the_run_went_back(
  run, monkeypatch
):
  folder, client = run
  assert client.get("/metrics")["rows"] == []
  path = folder / "metrics.jsonl"
  line = lambda i: json.dumps({"job": "align", "step": i, "loss": 0.5}) + "\n"
  path.write_text("".join(map(line, range(9))) + line(9)[:10])
  monkeypatch.setattr(serve, "AT_ONCE", 200)
  rows, file, offset, more = [], "", 0, True
  while more:
    answer = client.get(f"/metrics?file={file}&offset={offset}")
    rows += answer["rows"]
    file, offset, more = answer["file"], answer["offset"], answer["more"]
    more = more and bool(answer["rows"])
  assert [r["step"] for r in rows] == list(range(9))
  other = folder / "other"
  other.write_text(line(0))
  other.replace(path)  # as a resumed run does
  answer = client.get(f"/metrics?file={file}&offset={offset}")
  assert answer["start"] == 0 and len(answer["rows"]) == 1


def test_votes_do_not_leave_the_folder(run):
  folder, client = run
  outside = folder.parent / "outside"
  outside.mkdir()
  os.symlink(outside, folder / "votes")
  status, _, content = client.vote(client.get("/pair")["id"], "left")
  assert status == 409 and b"leads out" in content
  assert not list(outside.glob("*.jsonl"))


def test_damaged_and_partial_files_give_no_pairs(tmp_path):
  folder = make_run(tmp_path / "run")
  cards = folder / "grids" / "cards.npz"
  content = cards.read_bytes()
  (folder / "samples" / "0000-1.png").write_text("no image")
  for damaged in (b"PK", content[: len(content) // 2]):
    cards.write_bytes(damaged)
    assert votes.Votes(folder).pairs() == []


def test_equal_images_are_no_pair_and_an_edit_shows_its_source(tmp_path):
  folder = make_run(tmp_path / "run", count=2)
  images = np.zeros((2, 8, 8, 3), np.uint8)
  after = images.copy()
  after[1] += 9
  texts = [{"prompt": f"edit {i}"} for i in range(2)]
  source = np.full((2, 8, 8, 3), 0.5)
  path = folder / "grids" / "validation.npz"
  grids.save_cards(path, images, after, texts, {"source": source})
  found = votes.Votes(folder)
  edits = [p for p in found.pairs() if p.prompt.startswith("edit")]
  assert [p.prompt for p in edits] == ["edit 1"]
  found.add(edits[0].id, "tie")
  row = next(preference_files.read_rows(found.file))
  assert row.source is not None
  assert np.asarray(Image.open(row.source.path)).mean() == 128


def test_a_video_is_an_animated_image(tmp_path):
  folder = make_run(tmp_path / "run")
  strip = np.arange(2 * 4 * 24 * 3, dtype=np.uint8).reshape(2, 1, 4, 24, 3)
  path = folder / "grids" / "validation.npz"
  grids.save_cards(path, *strip, [{"prompt": "a clip"}], frames=3)
  found = votes.Votes(folder)
  pair = next(p for p in found.pairs() if p.prompt == "a clip")
  found.add(pair.id, "left")
  row = next(preference_files.read_rows(found.file))
  with Image.open(row.images[0].path) as image:
    assert image.n_frames == 3 and image.size == (8, 4)


@pytest.mark.parametrize(
  ("flags", "line"),
  [
    (["--serve=absent"], "--serve=absent holds no run"),
    (["--serve=run", "--port=x"], "--port=x: expected 0 to 65535"),
    (["--serve=run", "--config=a.py"], "goes with --port=N and no other flag"),
    (["--port=1"], "goes with --port=N and no other flag"),
    (["--serve=gs://bucket/run"], "a page is of a folder"),
  ],
)
def test_a_wrong_command_is_one_line(
  flags, line, capsys, monkeypatch, tmp_path
):
  monkeypatch.chdir(tmp_path)
  make_run(tmp_path / "run")
  assert main.main(flags) == 2
  assert line in capsys.readouterr().err


def test_a_taken_port_is_one_line(run):
  folder, client = run
  with pytest.raises(UserError, match=r"--port=\d+: .* in use; give another"):
    serve.make_server(folder, client.port)


def test_jax_is_not_imported():
  code = (
    "import jaxreward.main, jaxreward.report.serve, sys;"
    "sys.exit('jax' in sys.modules)"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
