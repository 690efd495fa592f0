"""Trains the scene reward model on preferences between the base policy's images.

Other configs that train a reward model start here, for `reward_model` and
`train_reward`.
"""

from ml_collections import ConfigDict

from jaxreward import config as config_lib


def get_config(arg: str | None = None):
  """`:smoke` runs a few steps on few pictures."""
  config = config_lib.load_sibling("base.py", __file__)
  config.job = "train_reward"
  config.reward_model = ConfigDict(
    dict(
      backbone=dict(  # or "clip", "siglip", "dino", "blip", "policy"
        name="scenes",
        width=128,
        depth=2,
        heads=2,
        mlp_ratio=3,
        text_layers=2,
        stem=256,
        unroll=2,
        dtype="float32",
      ),
      head=dict(name="scalar", hidden=256),  # or "gaussian", "similarity"
      train="full",  # or "frozen": only the head; "lora": adapters and the head
      rank=16,  # of the adapters
      alpha=32.0,
      targets="(qkv|query|kv|out|up|down)$",
      context=False,  # also read the source image of an edit
      frames="mean",  # of clips; or "attention"
    )
  )
  config.train_reward = ConfigDict(
    dict(
      source="scenes",  # or a file of your own, see docs/preferences.md
      heldout="",  # a separate test file; by default a part of source
      frames=0,  # frames of each animation in a file; 0 for images
      train_rows=768,  # prompts; those of a rare category appear in several rows
      heldout_rows=256,
      sampling=dict(
        samples=2,  # per row and guidance scale
        guidance_scales=(1.0, 2.0),
        num_steps=10,
        shift=2.5,
        microbatch=256,
        sampler=dict(name="ode"),  # or as rollout.sampler
        branch=dict(members=1, steps=0, children=0, every=1),  # as rollout's
        # weight files of other policies whose images are compared too
        gallery=(),
        # use clean estimates after so many steps instead of images:
        # (8, 4, 1) from nearly clean to noisy
        estimates=(),
      ),
      # with a reference, the last render is the row's source image
      pictures=dict(
        renders=2, spoiled=3, borrowed=2, strict_weight=0.5, reference=False
      ),
      # simulated users of opposite taste in warm colours; unseen ones are held
      # out, or described by so many of their rows
      users=dict(count=0, unseen=0, weight=0.5, shown=4),
      # by the detector, or by a reward with this name in config.rewards,
      # heldout_rewards or judged_rewards: a judge's answers, to be distilled
      labels="",
      label_noise=0.05,
      margin=0.02,  # scores that are closer are a tie
      ties="drop",
      # or "pairwise": ratings instead of answers, without a matrix of pairs
      loss=dict(name="bradley_terry", margin=0.0, label_noise=0.0),
      # relabelling before training: "preference_strength", "consensus",
      # "coteach", "importance", "aligned", "extremes"
      curation=dict(name="none"),
      proxies=dict(
        members=4, width=64, ridge=1e-2
      ),  # reward models for curation
      init_from_policy=True,
      init_from="",  # file of a trained reward model as the initial value
      steps=240,
      rows=32,  # per step
      pictures_per_row=8,  # all pairs of them are compared
      backbone_rate=1.0,  # fraction of the learning rate
      last_layers=dict(),  # trained last layers of a tower: text=11, vision=19
      backbone_optimizer=dict(
        name="same"
      ),  # or a separate one, like `optimizer`
      ema_decay=0.98,
      evaluate_every=80,
      save_every=80,
      # evaluations without improvement before early stopping; 0: never
      early_stopping=dict(patience=0, metric="eval/pair_accuracy"),
      optimizer=dict(
        name="muon",
        learning_rate=1e-2,
        schedule="cosine",
        warmup_steps=20,
        clip_norm=1.0,
        weight_decay=0.01,
        b1=0.9,
        b2=0.99,
        adam_scale=0.15,
      ),
    )
  )
  if config_lib.parse_arg(arg, smoke=False)["smoke"]:
    config.model.update(width=32, depth=2, unroll=1)
    config.init.checkpoint = ""
    config.reward_model.backbone.update(width=32, depth=1, stem=32, unroll=1)
    config.reward_model.head.hidden = 64
    config.train_reward.update(
      train_rows=24, heldout_rows=12, steps=6, rows=4, pictures_per_row=4,
      evaluate_every=3, save_every=3,
    )  # fmt: skip
    config.train_reward.sampling.update(samples=1, num_steps=2)
    config.train_reward.optimizer.warmup_steps = 2
  return config
