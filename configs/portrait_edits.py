"""Aligns a policy that edits portraits: do what the words say, keep the rest.

  python -m jaxreward.main --workdir=runs/portrait_edits_aligned \
    --config=configs/portrait_edits.py

With `:words` the reward is agreement with the words alone, which asks for a failure:
nothing says that the person has to stay the same. `same_person` and `left_alone` are
held out, so that the panel of over-optimisation can say so. Short runs have not
shown it yet (docs/portraits.md).

The policy to start from, runs/portrait_edits/policy.safetensors, comes from
configs/pretrain_portrait_edits.py.
"""

from jaxreward import config as config_lib

REWARDS = ("kept", "words")
KEPT = dict(give=1.0, recolour=1.0, express=1.0, restyle=1.0, fill=1.0)


def get_config(arg: str | None = None):
  """`:words` rewards the words alone; `,smoke` for a few tiny iterations."""
  options = config_lib.parse_arg(arg, reward=REWARDS, smoke=False)
  size = ":smoke" if options["smoke"] else ""
  config = config_lib.load_sibling(f"portraits.py{size}", __file__)
  config.model.takes_source = True
  config.data.update(
    source="portrait_edits",
    grammar="portrait_edits",
    kind_weights=(2, 2, 1, 2, 3, 1, 1, 1),
  )
  words = dict(carried_out=dict(fn="carried_out", weight=1.0))
  of_the_rest = dict(
    left_alone=dict(fn="left_alone", weight=0.5),
    same_person=dict(fn="same_person", weight=1.0),
  )
  if options["reward"] == "words":
    config.rewards = words
    config.heldout_rewards = of_the_rest
  else:
    background = dict(fn="background", weight=0.5, kinds=KEPT)
    config.rewards = words | of_the_rest | dict(background=background)
    config.heldout_rewards = dict(right=dict(fn="right", weight=1.0))
  config.composition = dict(name="gdpo", epsilon=1e-6)
  config.advantage = dict(name="group", std="none")
  if not options["smoke"]:
    config.init.checkpoint = "runs/portrait_edits/policy.safetensors"
  return config
