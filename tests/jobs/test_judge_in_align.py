"""A judge behind a server inside an align run, from end to end."""

import contextlib
import json

import numpy as np
import pytest

from jaxreward.jobs import align
from tests import tiny
from tests.rewards.judges import KEY, QUICK, Reply, Server, scored

pytestmark = pytest.mark.job

NFT = "align_scenes.py:smoke"
SMALL = tiny.MODEL | tiny.FAST | {
  "align.overlap": True,
  "align.iterations": 3,
  "eval.every": 0,
  "eval.samples": 6,
  "rollout.prompts": 3,
  "rollout.group": 4,
  "checkpoint.every": 1,
  "heldout_rewards.redness.fn": f"{tiny.HERE}:redness",
  "heldout_rewards.redness.scale": 1.0,
}  # fmt: skip


def options(url, fn="judge_pointwise", **more):
  given = {"fn": fn, "url": url, "key_env": "JUDGE_KEY", **QUICK, **more}
  return {"rewards.detector": "none"} | {
    f"rewards.judge.{k}": v for k, v in given.items()
  }


def reddest(ask):
  """Every fifth request fails; asked again, it does not."""
  if ask.number % 5 == 4:
    return Reply(b"", 503)
  return scored(round(1 + 9 * ask.red[0], 5))


@pytest.fixture
def serve(monkeypatch):
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  monkeypatch.setenv("JUDGE_KEY", KEY)
  with contextlib.ExitStack() as stack:
    yield lambda answer: stack.enter_context(contextlib.closing(Server(answer)))


@pytest.mark.slow
def test_a_run_with_a_judge(serve, command, tmp_path, small_model):
  server, run = serve(reddest), tmp_path / "run"
  assert command(NFT, run, SMALL, options(server.url)) == 0
  rows = tiny.rows(run, "align")
  assert len(rows) == 3
  for row in rows:
    # Pictures are sent with 8 bits.
    assert row["reward/judge"] == pytest.approx(row["reward/redness"], abs=4e-3)
    assert row["reward"] == pytest.approx(row["reward/judge"])
    assert row["failed/judge"] == 0 and "nonfinite" not in row
  assert json.loads((run / "evaluation.json").read_text())
  used = [
    json.loads(line)
    for line in (run / "rewards/judge/usage.jsonl").read_text().splitlines()
  ]
  assert sum(n for name, n in used if name == "requests") == server.count
  for path in run.rglob("*"):
    assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_a_run_that_breaks_off_asks_nothing_twice(
  serve, command, tmp_path, small_model, monkeypatch
):
  given = [SMALL, options("$JUDGE_URL")]
  servers = [
    serve(lambda ask: scored(round(1 + 9 * ask.red[0], 5))) for _ in "ab"
  ]
  monkeypatch.setenv("JUDGE_URL", servers[0].url)
  assert command(NFT, tmp_path / "unbroken", *given) == 0
  monkeypatch.setenv("JUDGE_URL", servers[1].url)
  stop = align.Watch.__call__

  def broken(self, n, row):
    stop(self, n, row)
    if n == 2:
      raise OSError(28, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(align.Watch, "__call__", broken)
    assert command(NFT, tmp_path / "run", *given) == 2
  assert command(NFT, tmp_path / "run", *given) == 0
  assert servers[1].count == servers[0].count
  for name in ("metrics.jsonl", "policy.safetensors", "evaluation.json"):
    one, other = (tmp_path / w / name for w in ("run", "unbroken"))
    assert one.read_bytes() == other.read_bytes(), name


@pytest.mark.slow
def test_pictures_without_an_answer_are_masked_and_counted(
  serve, command, tmp_path, small_model
):
  def answer(ask):
    return Reply(b"", 500) if ask.number % 4 == 1 else scored(5)

  more = options(serve(answer).url, retries=0, concurrency=1)
  assert command(NFT, tmp_path / "run", SMALL, more) == 0
  rows = tiny.rows(tmp_path / "run", "align")
  for row in rows:
    assert row["failed/judge"] == 3 and "nonfinite" not in row
    np.testing.assert_allclose(row["reward/judge"], 4 / 9, rtol=1e-6)


@pytest.mark.slow
def test_win_rates_are_trained_on(serve, command, tmp_path, small_model):
  def answer(ask):
    first, second = ask.red
    word = "first" if first > second else "second"
    text = json.dumps({"winner": word if first != second else "tie"})
    return Reply({"choices": [{"message": {"content": text}}]})

  server = serve(answer)
  more = options(server.url, "judge_pairwise")
  more |= {"align.iterations": 1, "eval.samples": 3}
  assert command(NFT, tmp_path / "run", SMALL, more) == 0
  row = tiny.rows(tmp_path / "run", "align")[-1]
  assert row["reward/judge"] == pytest.approx(0.5)
  assert row["failed/judge"] == 0


@pytest.mark.parametrize(
  ("status", "more", "words"),
  [
    (401, {}, 'reward "judge": key_env=JUDGE_KEY'),
    (200, {"request_budget": 7}, 'reward "judge": request_budget=7 is used up'),
    (500, {"retries": 1}, 'reward "judge" gave no finite score'),
  ],
)
def test_a_judge_that_cannot_be_asked_stops_the_run(
  status, more, words, serve, command, tmp_path, small_model
):
  reply = scored(5) if status == 200 else Reply(b"no", status)
  given = options(serve(lambda ask: reply).url, **more)
  # The first evaluation asks it, or, where that masks what is lost, step 1.
  assert command(NFT, tmp_path / "run", SMALL, given) == 2
  assert words in command.error


@pytest.mark.parametrize(
  ("more", "words"),
  [
    ({"key_env": "NO_SUCH_KEY"}, "config.rewards.judge: key_env=NO_SUCH_KEY"),
    ({"timeouts": 3}, "config.rewards.judge.timeouts is no argument of"),
    ({"swap": True}, "config.rewards.judge.swap is no argument of"),
    ({"timeout": "long"}, "config.rewards.judge.timeout='long'"),
    ({"folder": "x"}, "config.rewards.judge.folder"),
    ({"url": "here"}, "config.rewards.judge: url="),
  ],
)
def test_wrong_options_end_before_anything_runs(
  more, words, command, tmp_path, small_model, monkeypatch
):
  monkeypatch.setenv("JUDGE_KEY", KEY)
  given = options("http://127.0.0.1:9/v1") | {
    f"rewards.judge.{k}": v for k, v in more.items()
  }
  assert command(NFT, tmp_path / "run", SMALL, given) == 2
  assert words in command.error
  assert not (tmp_path / "run" / "metrics.jsonl").exists()
