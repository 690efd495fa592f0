"""The table of docs/judges.md: right answers of the judge that ships.

python tests/benchmarks/judge_table.py [FOLDER]

Beside each share stands that of the most frequent answer to the same form of
question, for scores by their scale, among the questions of the evaluation.
"""

import collections
import json
import pathlib
import re
import sys

from jaxreward import tasks
from jaxreward.models.vlm import small_judge
from jaxreward.setup import judge

SCALE = re.compile(r"from (\d+) \(|to (\d+) \(")


def most_frequent(seed: int, count: int) -> dict[str, float]:
  """Kind -> share of the most frequent answers."""
  shares = {}
  for name in ("scenes", "portraits"):
    draw = tasks.TASKS[name].questions.Questions("heldout")
    drawn = draw(judge.generator_of(seed, f"evaluation/{name}"), count)
    counts: dict = collections.defaultdict(collections.Counter)
    for x in (x for rows in drawn.groups.values() for row in rows for x in row):
      scale = tuple(SCALE.findall(x.question)) if x.begun else ()
      counts[x.kind, scale][x.answer] += 1
    for kind in {kind for kind, _ in counts}:
      of_kind = [x for (k, _), x in counts.items() if k == kind]
      best = sum(max(x.values()) for x in of_kind)
      shares[f"{name}/{kind}"] = best / sum(x.total() for x in of_kind)
  return shares


def main() -> None:
  """Prints the rows."""
  folder = pathlib.Path(
    (*sys.argv[1:], small_judge.resolve("package:judge"))[0]
  )
  record = json.loads((folder / "judge.json").read_text())
  section = record["config"]["eval"]
  frequent = most_frequent(section["seed"], section["samples"])
  print("| question | right | interval | most frequent | n |")
  print("| --- | --- | --- | --- | --- |")
  for kind, x in record["evaluation"]["kinds"].items():
    span = f"{x['low']:.2f} to {x['high']:.2f}"
    print(f"| {kind} | {x['accuracy']:.2f} | {span} | {frequent[kind]:.2f} | {x['n']} |")  # fmt: skip


if __name__ == "__main__":
  main()
