"""Judges behind a server: their options, addresses, keys and proxies."""

from jaxreward.rewards import REGISTRY
from tests.bad_inputs.table import Row

URL = "http://localhost:9/v1"


def judge(name, says, kind="judge_pointwise", files=None, **options):
  """A judge that is not built."""

  def call(here):
    given = {"url": URL, "model": "m", **options}
    at = lambda v: v.replace("{here}", str(here)) if isinstance(v, str) else v
    given = {
      k: [at(x) for x in v] if isinstance(v, list) else at(v)
      for k, v in given.items()
    }
    return REGISTRY[kind].loads(folder=here, **given)

  return Row(name, says, files or {}, call=call)


def run(name, says, env=None, **options):
  """A run that is refused before its working directory is made."""
  given = {"fn": "judge_pointwise", "url": URL, "model": "m", **options}
  return Row(
    name, ("config.rewards.judge", *says), env=env or {},
    overrides={f"rewards.judge.{k}": v for k, v in given.items()},
  )  # fmt: skip


ROWS = [
  run("no model", ('model=""',), model=""),
  run("a word for an address", ("localhost:8000/v1",), url="localhost"),
  run(
    "a proxy that would see the key", ("proxy=True", "https"), proxy="true",
    url="http://judge.example.com/v1",
  ),
  run("a variable that is not set", ("$NO_SUCH_URL",), url="$NO_SUCH_URL"),
  run(
    "an address of a variable, wrong", ("$MY_URL",), {"MY_URL": "nowhere"},
    url="$MY_URL",
  ),
  run("the key itself", ("never the key",), key_env="sk-123"),
  run("a key that is not set", ("NO_SUCH_KEY", "no key"), key_env="NO_SUCH_KEY"),
  run(
    "a key with a line break", ("MY_KEY", "no key"), {"MY_KEY": "a\nb"},
    key_env="MY_KEY",
  ),
  judge("a key that is not ASCII", ("MY_KEY_2",), key_env="MY_KEY_2"),
  judge("another protocol", ("OpenAI-compatible",), url="ftp://host/v1"),
  judge("a port that is none", ("OpenAI-compatible",), url="http://h:x/v1"),
  judge("a name in the address", ("key_env",), url="http://me:pw@host/v1"),
  judge("a query in the address", ("$NAME",), url="http://host/v1?key=1"),
  judge("a proxy that is no truth value", ("proxy='yes'",), proxy="yes"),
  judge("samples that are alike", ("temperature",), samples=2),
  judge("no sample", ("samples=0",), samples=0),
  judge("no time", ("timeout=0",), timeout=0.0),
  judge("an endless time", ("timeout=inf",), timeout=float("inf")),
  judge("a wait that is no number", ("backoff=nan",), backoff=float("nan")),
  judge("less than no tokens", ("max_tokens=-1",), max_tokens=-1),
  judge("a mean of another name", ('"median"', "mean"), combine="medain"),
  judge("a budget of another name", ("over_budget",), over_budget="halt"),
  judge("a cache in a bucket", ("local folder",), cache="gs://b/c"),
  judge("a body that is no section", ("body=",), body="x"),
  judge("limits the wrong way", ("low=5",), low=5.0, high=1.0),
  judge("limits that are equal", ("low=1",), low=1.0, high=1.0),
  judge("an answer of another name", ("yes_no",), answer="yes"),
  judge("no such template", ("t.txt",), templates=["{here}/t.txt"]),
  judge(
    "a template without its picture", ("{image}",), templates=["{here}/t.txt"],
    files={"t.txt": "How good is {prompt}? {answer}"},
  ),
  judge(
    "pairs of another name", ("pairs",), "judge_pairwise", pairs="some"
  ),
  judge(
    "no opponent", ("opponents=0",), "judge_pairwise", pairs="random",
    opponents=0,
  ),
  judge(
    "references that are not asked for", ("go together",), "judge_pairwise",
    references="{here}",
  ),
  judge("no question", ("most_questions=0",), "judge_checklist",
        most_questions=0),
  judge("no such questions", ("q.jsonl",), "judge_checklist",
        questions="{here}/q.jsonl"),
  Row("a judge that does not ship",
      ("config.rewards.judge.weights", 'did you mean "judge"'),
      overrides={"rewards.judge.fn": "vlm_pointwise", "rewards.judge.weight": 1.0,
                 "rewards.judge.weights": "package:judg"}),
]  # fmt: skip
