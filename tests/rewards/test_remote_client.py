"""A judge whose server fails in every way there is."""

import json
import multiprocessing
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from urllib.request import ProxyHandler

import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.rewards.remote import client, options, store
from tests import tiny
from tests.rewards.judges import KEY, Loaded, Reply, levels, reds, said, scored

TEXT = ["a red circle"]
GOOD = scored(7)
VALUE = pytest.approx((7 - 1) / 9)


def pointwise(server, folder, **options):
  return Loaded("judge_pointwise", server.url, folder, **options)


def first_then(*replies):
  """Answers in this order, and the last one for ever."""
  return lambda ask: replies[min(ask.number, len(replies) - 1)]


BROKEN = {
  "too many": Reply({"error": {"message": "slow down"}}, 429),
  "server error": Reply(b"oops", 500),
  "overloaded": Reply(b"", 529),
  "hang": Reply(GOOD.body, wait=3.0),
  "reset": Reply(reset=True),
  "cut short": Reply(b'{"choices": [{"mess', length=5000),
  "truncated": Reply(b'{"choices": [{"message": {"conte'),
  "no json": Reply(b"<html>gateway</html>"),
  "no utf-8": Reply(b'{"a": "\xff"}'),
  "wrong schema": Reply({"output": "7"}),
  "no choice": Reply({"choices": []}),
  "prose alone": said("A lovely picture!"),
  "out of range": scored(11),
  "nothing": said(""),
}


def patience(broken):
  return 1.0 if broken == "hang" else 30.0


@pytest.mark.turns(3)
@pytest.mark.parametrize("broken", BROKEN)
def test_what_may_pass_is_asked_again(broken, serve, tmp_path):
  server = serve(first_then(BROKEN[broken], BROKEN[broken], GOOD))
  judge = pointwise(server, tmp_path, timeout=patience(broken), retries=2)
  found = judge(reds([[0.5]]), TEXT)
  assert found == VALUE
  assert server.count == 3


@pytest.mark.turns(3)
@pytest.mark.parametrize("broken", BROKEN)
def test_what_does_not_pass_is_missing(broken, serve, tmp_path, caplog):
  """One picture is lost, the others are not, and nothing of it is kept."""
  lost = levels(3)[1]

  def answer(ask):
    return BROKEN[broken] if abs(ask.red[0] - lost) < 1e-4 else GOOD

  server = serve(answer)
  judge = pointwise(server, tmp_path, timeout=patience(broken), retries=1)
  found = judge(reds([levels(3)]), TEXT)
  np.testing.assert_allclose(found, [[6 / 9, np.nan, 6 / 9]], rtol=1e-6)
  assert server.count == 4
  assert "1 of 3 questions without an answer" in caplog.text
  assert len(list(tmp_path.rglob("*.json"))) == 2


def test_prose_around_json_is_no_failure(serve, tmp_path):
  server = serve(lambda ask: said('Sure!\n{"score": 7}\nAnything else?'))
  assert pointwise(server, tmp_path)(reds([[0.5]]), TEXT) == VALUE
  assert server.count == 1


def test_a_bad_answer_moves_the_seed_and_a_lost_one_does_not(serve, tmp_path):
  server = serve(first_then(scored(99), Reply(b"", 503), scored(0), GOOD))
  pointwise(server, tmp_path, seed=3)(reds([[0.5]]), TEXT)
  assert [ask.body["seed"] for ask in server.asks] == [3, 4, 4, 5]


def test_retry_after_holds_all_requests(serve, tmp_path):
  seen = []

  def answer(ask):
    seen.append(time.monotonic())
    late = Reply(b"", 429, {"Retry-After": "0.3"})
    return late if ask.number == 0 else GOOD

  server = serve(answer)
  judge = pointwise(server, tmp_path, concurrency=1)
  assert np.isfinite(judge(reds([levels(3)]), TEXT)).all()
  assert seen[1] - seen[0] >= 0.3
  assert server.count == 4


def test_a_wait_that_is_too_long_is_not_waited(serve, tmp_path):
  server = serve(lambda ask: Reply(b"", 429, {"Retry-After": "3600"}))
  judge = pointwise(server, tmp_path, longest_wait=1.0)
  assert np.isnan(judge(reds([[0.5]]), TEXT)).all()
  assert server.count == 1


def test_the_seconds_that_a_header_asks_for():
  date = "Sun, 06 Nov 1994 08:49:37 GMT"
  at = 784111777.0
  assert client.retry_after(date, at - 20) == 20
  assert client.retry_after(date, at + 20) == 0
  for value, seconds in (("7", 7), ("1.5", 1.5), ("-3", 0), ("soon", 0),
                         ("nan", 0), ("inf", 0), ("", 0), (None, 0)):  # fmt: skip
    assert client.retry_after(value, at) == seconds


def test_waits_grow_with_full_jitter_from_the_hash(
  serve, tmp_path, monkeypatch
):
  waits = []
  monkeypatch.setattr(
    client.Client, "_sleep", lambda self, s: waits.append(s) if s else None
  )
  server = serve(lambda ask: Reply(b"", 500))
  for folder in ("a", "b"):
    judge = pointwise(
      server, tmp_path / folder, retries=6, backoff=1.0, longest_wait=8.0
    )
    judge(reds([[0.5]]), TEXT)
  assert waits[:6] == waits[6:]  # of the same request
  bounds = np.array([1, 2, 4, 8, 8, 8])
  shares = np.array(waits[:6]) / bounds
  assert (0 <= shares).all() and (shares < 1).all()
  assert len(set(shares)) == 6


def test_shares_are_uniform():
  drawn = np.array([client.share(f"key {i}", 0) for i in range(2000)])
  assert 0 <= drawn.min() and drawn.max() < 1
  assert abs(drawn.mean() - 0.5) < 0.03 and abs(drawn.var() - 1 / 12) < 0.01


@pytest.mark.parametrize(
  ("status", "words"),
  [
    (400, ["url=", "model=tiny", "schema, logprobs", "not so"]),
    (401, ["key_env=JUDGE_KEY", "HTTP 401", "takes"]),
    (403, ["key_env=JUDGE_KEY", "may use"]),
    (404, ["url=", "model=tiny", "check both"]),
    (413, ["size=0", "smaller"]),
    (301, ["url=", "HTTP 301"]),
  ],
)
def test_a_refusal_stops_at_once(status, words, serve, tmp_path, monkeypatch):
  monkeypatch.setenv("JUDGE_KEY", KEY)
  message = {"error": {"message": f"not so, {KEY}\nat all"}}
  headers = {"Location": "http://127.0.0.1:9/elsewhere"}
  server = serve(lambda ask: Reply(message, status, headers, wait=0.02))
  judge = pointwise(server, tmp_path, key_env="JUDGE_KEY", concurrency=2)
  with pytest.raises(UserError) as error:
    judge(reds([levels(40)]), TEXT)
  text = str(error.value)
  assert all(word in text for word in words)
  assert "\n" not in text and KEY not in text and "***" in text
  assert server.count <= 4  # not forty


@pytest.mark.parametrize("before", range(120, 162, 6))
def test_no_part_of_the_key_is_left_at_a_cut(
  before, serve, tmp_path, monkeypatch
):
  monkeypatch.setenv("JUDGE_KEY", KEY)
  message = {"error": {"message": "x" * before + KEY}}
  server = serve(lambda ask: Reply(message, 401))
  judge = pointwise(server, tmp_path, key_env="JUDGE_KEY")
  with pytest.raises(UserError) as error:
    judge(reds([levels(4)]), TEXT)
  assert KEY[:4] not in str(error.value)


def test_an_account_without_money_is_a_refusal(serve, tmp_path):
  body = {"error": {"code": "insufficient_quota", "message": "pay"}}
  server = serve(lambda ask: Reply(body, 429))
  with pytest.raises(UserError, match="nothing left"):
    pointwise(server, tmp_path)(reds([[0.5]]), TEXT)
  assert server.count == 1


def test_a_picture_that_a_filter_refuses_is_missing(serve, tmp_path):
  body = {"error": {"code": "content_filter", "message": "no"}}
  server = serve(lambda ask: GOOD if ask.red[0] > 0.5 else Reply(body, 400))
  found = pointwise(server, tmp_path)(reds([[0.2, 0.8]]), TEXT)
  np.testing.assert_array_equal(np.isnan(found), [[True, False]])
  assert server.count == 2


def test_nobody_listens(tmp_path, caplog):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
  judge = Loaded("judge_pointwise", url, tmp_path, retries=1)
  assert np.isnan(judge(reds([[0.5]]), TEXT)).all()
  assert "ConnectionRefusedError" in caplog.text


@pytest.mark.parametrize("count", [1, 3])
def test_so_many_requests_at_a_time(count, serve, tmp_path):
  def answer(ask):
    """Keeps everyone waiting until so many have come."""
    end = time.monotonic() + 10
    while server.most < count and time.monotonic() < end:
      time.sleep(0.005)
    return GOOD

  server = serve(answer)
  judge = pointwise(server, tmp_path, concurrency=count, timeout=30.0)
  assert np.isfinite(judge(reds([levels(4 * count)]), TEXT)).all()
  assert server.most == count  # all of them busy, and no more


def test_a_second_run_asks_nothing(serve, tmp_path):
  server = serve(lambda ask: scored(1 + 9 * ask.red[0]))
  images = reds([levels(5), levels(5) * 2])
  texts = ["a red circle", "a blue square"]
  first = pointwise(server, tmp_path)(images, texts)
  assert server.count == 10
  again = pointwise(server, tmp_path)
  np.testing.assert_array_equal(again(images, texts), first)
  assert server.count == 10
  other = serve(lambda ask: scored(1))  # the same model elsewhere
  np.testing.assert_array_equal(
    pointwise(other, tmp_path)(images, texts), first
  )
  assert other.count == 0


@pytest.mark.parametrize(
  "changed",
  [
    {"model": "other"}, {"temperature": 0.5}, {"max_tokens": 9}, {"seed": 1},
    {"schema": False}, {"low": 2.0}, {"size": 9}, {"body": {"top_p": 0.5}},
  ],
  ids=str,
)  # fmt: skip
def test_another_question_is_another_entry(changed, serve, tmp_path):
  server = serve(lambda ask: GOOD)
  pointwise(server, tmp_path)(reds([[0.5]]), TEXT)
  pointwise(server, tmp_path, **changed)(reds([[0.5]]), TEXT)
  assert server.count == 2


def test_what_changes_no_answer_changes_no_entry(serve, tmp_path):
  server = serve(lambda ask: GOOD)
  pointwise(server, tmp_path)(reds([[0.5]]), TEXT)
  judge = pointwise(server, tmp_path, retries=1, concurrency=2, timeout=9.0)
  judge(reds([[0.5]]), TEXT)
  assert server.count == 1


def test_questions_that_are_alike_are_asked_once(serve, tmp_path):
  server = serve(lambda ask: scored(1 + 9 * ask.red[0]))
  found = pointwise(server, tmp_path)(
    reds([[0.2, 0.8, 0.2], [0.8, 0.8, 0.2]]), TEXT * 2
  )
  assert server.count == 2
  np.testing.assert_allclose(
    found, [[0.2, 0.8, 0.2], [0.8, 0.8, 0.2]], atol=1e-6
  )


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "other", "form"])
def test_a_damaged_entry_is_asked_again(damage, serve, tmp_path):
  server = serve(lambda ask: scored(1 + 9 * ask.red[0]))
  images = reds([[0.2, 0.8]])
  first = pointwise(server, tmp_path)(images, TEXT)
  paths = sorted(tmp_path.rglob("*.json"))
  data = paths[0].read_bytes()
  if damage == "form":  # whole, and of no use
    path = paths[0]
    store.Cache(tmp_path / "answers").put(
      path.stem, {"text": "?", "tokens": []}
    )
  else:
    paths[0].write_bytes(
      {
        "cut": data[: len(data) // 2],
        "empty": b"",
        "changed": data.replace(b'score\\": ', b'score\\": 1'),
        "other": paths[1].read_bytes(),
      }[damage]
    )
  assert paths[0].read_bytes() != data
  np.testing.assert_array_equal(
    pointwise(server, tmp_path)(images, TEXT), first
  )
  assert server.count == 3
  assert paths[0].read_bytes() == data


WRITER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("store", sys.argv[1])
store = importlib.util.module_from_spec(spec)
spec.loader.exec_module(store)
cache = store.Cache(sys.argv[2])
for i in range(90):
  cache.put(store.digest([i % 3]), {"text": "x" * 2000})
"""


@pytest.mark.job
@pytest.mark.turns(3)
def test_processes_share_a_cache(tmp_path):
  """Whoever reads while others write sees an entry whole, or none."""
  command = [sys.executable, "-c", WRITER, store.__file__, str(tmp_path)]
  env = os.environ | {"PYTHONPATH": str(tiny.ROOT)}
  workers = [subprocess.Popen(command, env=env) for _ in range(3)]
  cache, seen = store.Cache(tmp_path), 0
  while any(worker.poll() is None for worker in workers):
    for i in range(3):
      path = cache._path(store.digest([i]))
      if path.exists():
        value = json.loads(path.read_bytes())["value"]
        assert value == {"text": "x" * 2000}
        seen += 1
  assert seen and all(worker.returncode == 0 for worker in workers)
  assert len(list(tmp_path.rglob("*.json"))) == 3
  assert not list(tmp_path.rglob("*.tmp"))


def _judge_all(url, folder, count):
  Loaded("judge_pointwise", url, folder, concurrency=2)(
    reds([levels(count)]), TEXT
  )


@pytest.mark.slow  # a process that starts from nothing
def test_a_kill_loses_no_answer(serve, tmp_path):
  server = serve(lambda ask: Reply(GOOD.body, wait=0.02))
  context = multiprocessing.get_context("spawn")
  worker = context.Process(target=_judge_all, args=(server.url, tmp_path, 40))
  worker.start()
  while len(list(tmp_path.rglob("*.json"))) < 6:
    time.sleep(0.005)
  os.kill(worker.pid, signal.SIGKILL)
  worker.join()
  time.sleep(0.1)
  kept, asked = len(list(tmp_path.rglob("*.json"))), server.count
  assert 6 <= kept < 40
  assert asked - kept <= 3  # those on their way, and one between
  judge = pointwise(server, tmp_path)
  assert 0 <= judge.used["requests"] - asked <= 2
  np.testing.assert_allclose(judge(reds([levels(40)]), TEXT), 6 / 9, rtol=1e-6)
  assert server.count == asked + 40 - kept


def test_requests_are_counted_across_runs(serve, tmp_path):
  server = serve(first_then(Reply(b"", 500), said('{"score": 7}', total=30)))
  pointwise(server, tmp_path)(reds([[0.5, 0.6]]), TEXT)
  with (tmp_path / "usage.jsonl").open("a") as file:
    file.write('["tok')  # what a kill leaves behind
  again = pointwise(server, tmp_path)
  assert again.used == {"requests": 3, "tokens": 60}
  again(reds([[0.7]]), TEXT)
  last = pointwise(server, tmp_path)
  assert last.used == {"requests": 4, "tokens": 90}
  assert server.count == 4


@pytest.mark.parametrize("reply", [GOOD, Reply(b"", 500)], ids=["good", "bad"])
def test_no_more_requests_than_the_budget(reply, serve, tmp_path):
  server = serve(lambda ask: reply)
  options = dict(request_budget=5, over_budget="missing", concurrency=3)
  found = pointwise(server, tmp_path, **options)(reds([levels(9)]), TEXT)
  assert server.count == 5
  assert np.isfinite(found).sum() == (5 if reply is GOOD else 0)
  # A run that goes on has none left; what it knows it knows.
  pointwise(server, tmp_path, **options)(reds([levels(9)]), TEXT)
  assert server.count == 5


def test_tokens_have_a_budget(serve, tmp_path):
  server = serve(lambda ask: said('{"score": 7}', total=40))
  options = dict(token_budget=100, over_budget="missing", concurrency=1)
  found = pointwise(server, tmp_path, **options)(reds([levels(9)]), TEXT)
  assert server.count == 3  # 40, 80, 120
  assert np.isfinite(found).sum() == 3


@pytest.mark.parametrize("name", ["request_budget", "token_budget"])
def test_a_spent_budget_stops_the_run(name, serve, tmp_path):
  server = serve(lambda ask: said('{"score": 7}', total=1))
  judge = pointwise(server, tmp_path, **{name: 4}, concurrency=1)
  with pytest.raises(UserError, match=f"{name}=4 is used up; raise it"):
    judge(reds([levels(9)]), TEXT)
  assert server.count == 4


def test_the_key_is_sent_and_written_nowhere(
  serve, tmp_path, monkeypatch, caplog
):
  caplog.set_level("DEBUG")
  monkeypatch.setenv("JUDGE_KEY", KEY)
  server = serve(first_then(Reply(KEY.encode(), 500), GOOD))
  judge = pointwise(server, tmp_path, key_env="JUDGE_KEY")
  assert judge(reds([[0.5]]), TEXT) == VALUE
  for ask in server.asks:
    assert ask.headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in json.dumps(ask.body)
  files = [p for p in tmp_path.rglob("*") if p.is_file()]
  assert len(files) == 2
  assert not any(KEY.encode() in p.read_bytes() for p in files)
  assert KEY not in caplog.text
  assert KEY not in repr(judge.judge.options)


def test_without_a_key_none_is_sent(serve, tmp_path):
  server = serve(lambda ask: GOOD)
  pointwise(server, tmp_path)(reds([[0.5]]), TEXT)
  assert "Authorization" not in server.asks[0].headers


def test_what_a_request_says(serve, tmp_path):
  server = serve(lambda ask: GOOD)
  judge = pointwise(server, tmp_path, body={"top_p": 0.5}, max_tokens=64)
  judge(reds([[0.5]]), ["a {red} circle"])
  body = server.asks[0].body
  assert body["model"] == "tiny" and body["top_p"] == 0.5
  assert (body["temperature"], body["max_tokens"], body["seed"]) == (0, 64, 0)
  schema = body["response_format"]["json_schema"]
  assert schema["strict"] and schema["schema"]["required"] == ["score"]
  assert "a {red} circle" in server.asks[0].text
  assert server.asks[0].pictures[0].shape == (4, 4, 3)
  np.testing.assert_allclose(server.asks[0].red, [0.5], atol=1 / 255)


def test_what_a_request_leaves_out(serve, tmp_path):
  server = serve(lambda ask: GOOD)
  pointwise(
    server, tmp_path, temperature=-1.0, max_tokens=0, seed=-1, schema=False
  )(reds([[0.5]]), TEXT)
  assert set(server.asks[0].body) == {"model", "messages"}


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_pictures_are_sent_in_the_size_asked_for(shape, serve, tmp_path):
  server = serve(lambda ask: GOOD)
  images = np.full((1, 1, *shape, 3), 0.6, np.float32)
  pointwise(server, tmp_path, size=12)(images, TEXT)
  [picture] = server.asks[0].pictures
  assert picture.shape[:2] == tuple(2 * x for x in shape)
  np.testing.assert_allclose(picture, 0.6, atol=1 / 255)


WRONG = [
  (dict(url=""), "url"),
  (dict(url="localhost:8000"), "url"),
  (dict(url="ftp://host/v1"), "url"),
  (dict(url="http://[broken"), "url"),
  (dict(url="http://host:port/v1"), "url"),
  (dict(url=f"http://me:{KEY}@host/v1"), "url"),
  (dict(url="$NO_SUCH_PLACE"), "NO_SUCH_PLACE"),
  (dict(url=f"http://host/v1?api-key={KEY}"), 'url="$NAME"'),
  (dict(model=""), "model"),
  (dict(key_env=KEY), "key_env"),
  (dict(key_env="NO_SUCH_KEY"), "NO_SUCH_KEY"),
  (dict(combine="mode"), 'combine="mode"'),
  (dict(over_budget="go"), 'over_budget="go"'),
  (dict(samples=0), "samples=0"),
  (dict(samples=2), "temperature"),
  (dict(concurrency=0), "concurrency=0"),
  (dict(timeout=0.0), "timeout=0"),
  (dict(timeout=float("nan")), "timeout=nan"),
  (dict(retries=-1), "retries=-1"),
  (dict(backoff=-1.0), "backoff=-1"),
  (dict(longest_wait=float("inf")), "longest_wait=inf"),
  (dict(request_budget=-1), "request_budget=-1"),
  (dict(body=3), "body=3"),
  (dict(cache="gs://bucket/x"), "cache=gs"),
  (dict(low=5.0, high=5.0), "low=5"),
  (dict(answer="yes"), 'answer="yes"'),
]


@pytest.mark.parametrize(("given", "words"), WRONG)
def test_wrong_options_are_refused_before_anything_is_asked(
  given, words, tmp_path
):
  options = {"url": "http://127.0.0.1:9/v1", **given}
  with pytest.raises(UserError) as error:
    Loaded("judge_pointwise", folder=tmp_path, **options)
  assert words in str(error.value) and "\n" not in str(error.value)
  assert KEY not in str(error.value)
  assert not list(pathlib.Path(tmp_path).iterdir())


@pytest.mark.parametrize(
  ("url", "endpoint"),
  [
    ("http://h:8000/v1", "http://h:8000/v1/chat/completions"),
    ("https://h/v1/", "https://h/v1/chat/completions"),
    ("$JUDGE_URL", "http://there/v1/chat/completions"),
    ("$ITS_QUERY", "http://h/a/chat/completions?v=1"),
  ],
)
def test_addresses(url, endpoint, tmp_path, monkeypatch):
  monkeypatch.setenv("JUDGE_URL", "http://there/v1")
  monkeypatch.setenv("ITS_QUERY", "http://h/a/chat/completions?v=1")
  judge = Loaded("judge_pointwise", url, tmp_path)
  assert judge.judge.options.endpoint == endpoint


# Proxies


@pytest.fixture
def proxied(serve, monkeypatch):
  """A server that every proxy variable names; it should never be asked."""
  proxy = serve(first_then(GOOD))
  address = proxy.url.removesuffix("/v1")
  for name in ("http_proxy", "https_proxy", "all_proxy"):
    monkeypatch.setenv(name, address)
    monkeypatch.setenv(name.upper(), address)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
  monkeypatch.delenv("REQUEST_METHOD", raising=False)
  return proxy


@pytest.mark.parametrize("wanted", [False, True])
def test_no_proxy_sees_what_goes_to_this_machine(
  wanted, proxied, serve, tmp_path, monkeypatch
):
  monkeypatch.setenv("MY_KEY", KEY)
  server = serve(first_then(GOOD))
  judge = pointwise(server, tmp_path, key_env="MY_KEY", proxy=wanted)
  assert judge(reds([[0.5]]), TEXT) == VALUE
  assert server.count == 1
  assert proxied.count == 0


def handlers(url, **given):
  opened = client._opener(options.Options(url=url, model="m", **given))
  found = [h for h in opened.handlers if isinstance(h, ProxyHandler)]
  return found[0].proxies if found else {}


def test_a_proxy_is_asked_where_it_is_wanted_and_sees_nothing(proxied):
  address = proxied.url.removesuffix("/v1")
  far = "https://judge.example.com/v1"
  assert handlers(far) == {}
  assert handlers(far, proxy=True) == {"https": address}
  assert handlers("https://10.0.0.3/v1", proxy=True) == {}
  with pytest.raises(UserError, match="proxy=True"):
    handlers("http://judge.example.com/v1", proxy=True)


@pytest.mark.parametrize(
  ("host", "local"),
  [
    ("localhost", True), ("127.0.0.1", True), ("::1", True),
    ("192.168.1.4", True), ("10.1.2.3", True), ("fe80::1", True),
    ("judge", True), ("judge.default.svc", True), ("box.local", True),
    ("api.example.com", False), ("8.8.8.8", False), ("2600::1", False),
  ],
)  # fmt: skip
def test_hosts_that_are_local(host, local):
  assert options.is_local(host) == local
