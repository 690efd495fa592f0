"""Meta-CoT: a judge is held against ratings before a policy follows it, in early steps.

Zhang et al. 2026, https://arxiv.org/abs/2604.24625: a judge scores from 0 to 10 whether an
edit does what a written plan says, to what it says; it is used since its correlation with
500 ratings of people is at least .8 and its mean error at most 2.5, and Flow-GRPO trains
the steps near noise alone. At full size it is asked whether the edit is done, and whether
that alone has changed; no plan is written, and both are held against the one rating of a
row in "ratings.jsonl". On scenes the judge that ships says how probable it is that the
prompt is shown. Beside the exact ratings of 128 held-out prompts it reaches
.60 and .28, its scores from 1 to 10 reach .42 and .50: no answer of its passes .8 and .25,
and here the gate is .5 and .35. `unverified`: number of early steps, and weights.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for FLUX.1 Kontext, with "ratings.jsonl"."""
  size = recipes.size_of(arg)
  if size == "full":
    config = recipes.of_edits("flow_grpo", arg, __file__, follow=1.0)
    judge = dict(fn="vlm_pointwise", answer="score", low=0.0, weight=0.5)
    recipes.judge_with(
      config, arg, task=dict(judge, template="edit_following"),
      target=dict(judge, template="edit_keeping"),
    )  # fmt: skip
    config.eval.preferences = "ratings.jsonl"
  else:
    config = recipes.load("flow_grpo", arg, __file__)
    recipes.judge_with(config, arg, judge=dict(fn="vlm_pointwise"))
    config.eval.preferences = config.data.source
  config.job, config.jobs = "pipeline", ("evaluate", "align")
  rows = 8 if size == "smoke" else 500 if size == "full" else 128
  config.eval.judging.update(rows=rows, views=0)
  gate = (0.8, 0.25) if size == "full" else (0.5, 0.35)
  config.eval.judging.gate = dict(zip(("pearson", "error"), gate, strict=True))
  config.rollout.update(window_start=0, window_size=1 if size == "smoke" else 2)
  config.align.split = "samples"
  return config
