"""Samplers, solvers, schedules, windows, negative prompts, sizes, times."""

from tests.bad_inputs.table import Row

GRPO = "align_scenes.py:flow_grpo,smoke"
SD3 = "align_public.py:sd35_medium,objective=flow_grpo,tiny"
FLUX = "align_public.py:flux_dev,tiny"
WAN = "align_public.py:wan_t2v,tiny"
WAN22 = "align_public.py:wan22_t2v,tiny"
SAMPLE = "sample_scenes.py:smoke"
EVALUATE = "evaluate_scenes.py:smoke"


def _row(name, config, says, **overrides):
  """A row whose overrides are named with "__" for a dot."""
  fields = {k.replace("__", "."): v for k, v in overrides.items()}
  return Row(name, says, config=config, overrides=fields)


ROWS = [
  # Samplers and solvers.
  _row(
    "log-probabilities of a solver", GRPO,
    ('config.rollout.sampler.name="unipc" draws none', '"flow_sde"'),
    rollout__sampler__name="unipc",
  ),
  _row(
    "log-probabilities of DPM-Solver++", GRPO,
    ('config.rollout.sampler.name="dpmpp_2m" draws none',),
    rollout__sampler__name="dpmpp_2m",
  ),
  _row(
    "log-probabilities of a form that there is not", GRPO,
    ('config.align.old_log_prob="exact"', "sealed, stored, recomputed"),
    align__old_log_prob="exact",
  ),
  _row(
    "recomputed log-probabilities of samples an update old", GRPO,
    ('config.align.old_log_prob="recomputed"', "config.align.overlap=True"),
    align__old_log_prob="recomputed", align__overlap=True,
  ),
  _row(
    "log-probabilities that nobody reads", "align_scenes.py:diffusion_nft,smoke",
    ('config.align.old_log_prob="stored"', '"diffusion_nft"'),
    align__old_log_prob="stored",
  ),
  # Steps of one's own, and steps aside.
  _row(
    "a share that leaves no step", GRPO,
    ("config.align.step_share=0.1", "of 2 steps with noise none is left"),
    align__step_share=0.1,
  ),
  _row(
    "a share of nothing", GRPO,
    ("config.align.step_share=0.0: expected a share above 0",),
    align__step_share=0.0,
  ),
  _row(
    "a share of a window that moves", "recipes/mixgrpo.py:smoke",
    ("config.align.step_share=0.5", 'config.rollout.window_move.name="sliding"'),
    align__step_share=0.5,
  ),
  _row(
    "a share of steps that nobody reads", "align_scenes.py:diffusion_nft,smoke",
    ("config.align.step_share=0.5", "config.align.times"),
    align__step_share=0.5,
  ),
  _row(
    "steps aside without rewards of their own", GRPO,
    ("config.rollout.aside=True", 'config.advantage.name="group"', '"branched"'),
    rollout__aside=True,
  ),
  _row(
    "steps aside of samples that share their noise",
    "recipes/tempflow_grpo.py:smoke",
    ("config.rollout.aside=True", "config.rollout.branch.steps=1"),
    rollout__branch__steps=1,
  ),
  _row(
    "a weight that adapts to no target", "recipes/sage_grpo.py:smoke",
    ("config.regularizers.kl.adapt.target=0.0: expected a number greater than 0",),
    regularizers__kl__adapt__target=0.0,
  ),
  _row(
    "a weight that adapts above its bound", "recipes/sage_grpo.py:smoke",
    ("config.regularizers.kl.adapt.least=1.0", "1e-05"),
    regularizers__kl__adapt__least=1.0,
  ),
  _row(
    "levels of noise for another sampler", "recipes/dense_grpo.py:smoke",
    ("config.rollout.sampler.name=cps", '"calibrated" sets the noise'),
    rollout__sampler__name="cps",
  ),
  _row(
    "levels of noise that move while the policy learns",
    "recipes/dense_grpo.py:smoke",
    ("config.align.hold_policy=0", '"calibrated" move for 1 iterations'),
    align__hold_policy=0,
  ),
  _row(
    "a window that lingers ever longer", "recipes/mixgrpo.py:smoke",
    ("config.rollout.window_move.rate=-1.0: at least 0",),
    rollout__window_move__rate=-1.0,
  ),
  _row(
    "steps aside of a player that reads paths",
    "recipes/tempflow_grpo.py:smoke",
    ("config.rollout.aside=True", "config.players.parts"),
    players__parts__fn="return_parts", players__parts__steps=4,
  ),
  # Branches and starts.
  _row(
    "branches that never part", "align_scenes.py:diffusion_nft,smoke",
    ("config.rollout.branch.members=2", '"ode" draws no noise'),
    rollout__branch__members=2,
  ),
  _row(
    "branches of files", "recipes/flow_matching.py:smoke",
    ("config.rollout.branch: samples come from files",),
    rollout__branch__members=2,
  ),
  _row(
    "a first look after the last step", EVALUATE,
    ('config.eval.steering.name="fk" looks after 50 steps',),
    eval__steering__name="fk", eval__steering__first=50,
    eval__sampler__name="cps",
  ),
  _row(
    "steering of pretraining", "pretrain_scenes.py:smoke",
    ('config.eval.steering.name="best_of_n"', "no rewards to steer by"),
    eval__steering__name="best_of_n",
  ),
  _row(
    "steps of a sample shared out", "recipes/gspo.py:smoke",
    ('config.objective.name="gspo"', "align.updates=2", 'split="samples"'),
    align__updates=2, align__split="times",
  ),
  _row(
    "players first and no players", GRPO,
    ("config.align.hold_policy=1: there are no players",),
    align__hold_policy=1,
  ),
  _row(
    "branches that do not fill a group", GRPO,
    ("config.rollout.branch.members=3", "config.rollout.group=4"),
    rollout__branch__members=3, rollout__group=4,
  ),
  _row(
    "shared steps of nobody", GRPO, ("config.rollout.branch.members=1",),
    rollout__branch__steps=2,
  ),
  _row(
    "all steps are shared", GRPO, ("config.rollout.branch.steps=99",),
    rollout__branch__members=2, rollout__branch__steps=99,
  ),
  _row(
    "a tree without a trunk", GRPO, ("config.rollout.branch.children=2",),
    rollout__branch__children=2,
  ),
  _row(
    "a tree whose leaves are no power", GRPO,
    ("config.rollout.branch.children=3", "members=4 is no power"),
    rollout__branch__members=4, rollout__branch__children=3,
  ),
  _row(
    "a tree that forks too late", GRPO, ("config.rollout.branch.every=9",),
    rollout__branch__members=4, rollout__branch__children=2,
    rollout__branch__every=9,
  ),
  _row(
    "a tree at the window", GRPO,
    ("config.rollout.branch.children=2 to 0",), rollout__branch__steps=-1,
    rollout__branch__members=2, rollout__branch__children=2,
    rollout__window_size=1, align__updates=1,
  ),
  _row(
    "branches at no window", GRPO,
    ("config.rollout.branch.steps=-1", "window_size is 0"),
    rollout__branch__members=2, rollout__branch__steps=-1, rollout__num_steps=3,
    rollout__window_size=0,
  ),
  _row(
    "a start from no picture", "align_scenes.py:diffusion_nft,smoke",
    ('config.rollout.start.name="picture"', "hold no pictures"),
    rollout__start__name="picture",
  ),
  _row(
    "an evaluation from no picture", EVALUATE,
    ('config.eval.start.name="picture"', "hold no pictures"),
    eval__start__name="picture",
  ),
  _row(
    "a start from another field", SAMPLE,
    ('config.sample.start.of="mask"', "source"),
    sample__start__name="picture", sample__start__of="mask",
  ),
  _row(
    "all steps of a picture", SAMPLE, ("config.sample.start.strength=1",),
    sample__start__name="picture", sample__start__strength=1.0,
  ),
  # Steering.
  _row(
    "misspelled steering", EVALUATE,
    ('config.eval.steering.name="best_of"', 'did you mean "best_of_n"?'),
    eval__steering__name="best_of",
  ),
  _row(
    "particles of a sampler without noise", SAMPLE,
    ('config.sample.steering.name="fk"', '"ode"', '"cps"'),
    sample__steering__name="fk",
  ),
  _row(
    "no particle", EVALUATE,
    ("config.eval.steering.particles=0: it must be",),
    eval__steering__name="best_of_n", eval__steering__particles=0,
  ),
  _row(
    "an unknown potential", EVALUATE,
    ('config.eval.steering.potential="maximum"', "difference, max, sum, last"),
    eval__steering__name="fk", eval__steering__potential="maximum",
    eval__sampler__name="flow_sde",
  ),
  _row(
    "a share above one", EVALUATE,
    ("config.eval.steering.threshold=2: expected a share",),
    eval__steering__name="fk", eval__steering__threshold=2.0,
    eval__sampler__name="flow_sde",
  ),
  _row(
    "a negative tilt", SAMPLE, ("config.sample.steering.tilt=-1",),
    sample__steering__name="fk", sample__steering__tilt=-1.0,
    sample__sampler__name="flow_sde",
  ),
  _row(
    "a pick that there is not", SAMPLE,
    ('config.sample.steering.pick="first"', "best, drawn"),
    sample__steering__name="fk", sample__steering__pick="first",
    sample__sampler__name="flow_sde",
  ),
  _row(
    "no beam", EVALUATE, ("config.eval.steering.beams=0: it must be",),
    eval__steering__name="lookahead_beams", eval__steering__beams=0,
  ),
  _row(
    "no branch", EVALUATE, ("config.eval.steering.branches=0: it must be",),
    eval__steering__name="lookahead_beams", eval__steering__branches=0,
  ),
  _row(
    "no lookahead", EVALUATE, ("config.eval.steering.lookahead=0: it must be",),
    eval__steering__name="lookahead_beams", eval__steering__lookahead=0,
  ),
  _row(
    "particles without end", SAMPLE,
    ("config.sample.steering.particles=100000000", "at most 10,000,000"),
    sample__steering__name="best_of_n", sample__steering__particles=10**8,
  ),
  _row(
    "particles of many images", SAMPLE,
    ("config.sample.steering.name=\"best_of_n\" particles=10000000",
     "more than 10,000,000"),
    sample__steering__name="best_of_n", sample__steering__particles=10**7,
  ),
  _row(
    "beams times branches", EVALUATE, ("more than 10,000,000",),
    eval__steering__name="lookahead_beams", eval__steering__beams=10**4,
    eval__steering__branches=10**3,
  ),
  _row(
    "a lookahead without end", EVALUATE,
    ("config.eval.steering.lookahead=100000", "at most 10,000"),
    eval__steering__name="lookahead_beams", eval__steering__lookahead=10**5,
  ),
  _row(
    "rollouts that nothing holds", EVALUATE, ("more than 10,000,000",),
    eval__steering__name="tree", eval__steering__rollouts=10**7,
    eval__sampler__name="cps",
  ),
  _row(
    "times without end", GRPO,
    ("config.align.times=100000000", "at most 10,000,000"),
    align__times=10**8,
  ),
  _row(
    "times of many samples", GRPO,
    ("config.rollout.prompts", "config.align.times=10000000",
     "more than 10,000,000"), align__times=10**7,
  ),
  _row(
    "steps without end", GRPO,
    ("config.rollout.num_steps=100000", "at most 10,000"),
    rollout__num_steps=10**5,
  ),
  _row(
    "branches of a sampler without noise", EVALUATE,
    ('config.eval.steering.name="lookahead_beams"', '"ode"', '"cps"'),
    eval__steering__name="lookahead_beams",
  ),
  _row(
    "pruning after the last step", EVALUATE,
    ("looks after 5 steps", "takes 2", "config.eval.num_steps"),
    eval__steering__name="pruned",
  ),
  _row(
    "looks that fall", SAMPLE,
    ("config.sample.steering.looks=(3, 1)", "rising"),
    sample__steering__name="pruned", sample__steering__looks="(3,1)",
    sample__steering__keep="(0.5,0.5)",
  ),
  _row(
    "a look without its share", SAMPLE,
    ("config.sample.steering.looks=(1,)", "one share is needed for each"),
    sample__steering__name="pruned", sample__steering__looks="(1,)",
  ),
  _row(
    "a share that keeps nothing", SAMPLE,
    ("config.sample.steering.keep=(0.0,)", "above 0, at most 1"),
    sample__steering__name="pruned", sample__steering__looks="(1,)",
    sample__steering__keep="(0.0,)",
  ),
  _row(
    "no rollout", EVALUATE, ("config.eval.steering.rollouts=0: it must be",),
    eval__steering__name="tree", eval__steering__rollouts=0,
  ),
  _row(
    "a tree without a tilt", EVALUATE,
    ("config.eval.steering.tilt=0: expected a finite number above 0",),
    eval__steering__name="tree", eval__steering__tilt=0.0,
  ),
  _row(
    "a tree without width", EVALUATE,
    ("config.eval.steering.width=0: expected a finite number above 0",),
    eval__steering__name="tree", eval__steering__width=0.0,
  ),
  _row(
    "a tree that grows with every visit", EVALUATE,
    ("config.eval.steering.growth=1: expected at least 0, below 1",),
    eval__steering__name="tree", eval__steering__growth=1.0,
  ),
  _row(
    "a leaf that there is not", EVALUATE,
    ('config.eval.steering.pick="first"', "best, drawn"),
    eval__steering__name="tree", eval__steering__pick="first",
  ),
  _row(
    "a tree of a sampler without noise", EVALUATE,
    ('config.eval.steering.name="tree"', '"ode"', '"cps"'),
    eval__steering__name="tree",
  ),
  _row(
    "no seed", EVALUATE, ("config.eval.steering.particles=0: it must be",),
    eval__steering__name="carinox", eval__steering__particles=0,
  ),
  _row(
    "fewer iterations than none", EVALUATE,
    ("config.eval.steering.iterations=-1: it must be",),
    eval__steering__name="reno", eval__steering__iterations=-1,
  ),
  _row(
    "a noise that does not move", EVALUATE,
    ("config.eval.steering.learning_rate=0: expected", "above 0"),
    eval__steering__name="reno", eval__steering__learning_rate=0.0,
  ),
  _row(
    "a momentum that grows", EVALUATE,
    ("config.eval.steering.momentum=1: expected at least 0, below 1",),
    eval__steering__name="reno", eval__steering__momentum=1.0,
  ),
  _row(
    "a negative clip", EVALUATE, ("config.eval.steering.clip=-0.1: expected",),
    eval__steering__name="reno", eval__steering__clip=-0.1,
  ),
  _row(
    "a negative prior", EVALUATE, ("config.eval.steering.prior=-1: expected",),
    eval__steering__name="reno", eval__steering__prior=-1.0,
  ),
  _row(
    "the gradient of a reward on the host", EVALUATE,
    ("config.rewards.detector", "runs on the host", "best_of_n"),
    eval__steering__name="reno", rewards__detector__fn="jpeg_compressibility",
  ),
  _row(
    "nothing to steer by", SAMPLE,
    ("config.sample.steering", "needs a reward with a weight"),
    sample__steering__name="best_of_n", rewards__detector__weight=0.0,
  ),
  _row(
    "misspelled solver", EVALUATE,
    ('config.eval.sampler.name="unipcc"', 'did you mean "unipc"?'),
    eval__sampler__name="unipcc",
  ),
  _row(
    "sampler of another library", SAMPLE,
    ('config.sample.sampler.name="UniPCMultistepScheduler"',),
    sample__sampler__name="UniPCMultistepScheduler",
  ),
  _row(
    "third order", SAMPLE, ("config.sample.sampler.order=3: expected 1 or 2",),
    sample__sampler__name="unipc", sample__sampler__order=3,
  ),
  _row(
    "order zero", EVALUATE, ("config.eval.sampler.order=0: expected 1 or 2",),
    eval__sampler__name="unipc", eval__sampler__order=0,
  ),
  _row(
    "order in words", EVALUATE, ("config.eval.sampler.order", "two"),
    eval__sampler__name="unipc", eval__sampler__order="two",
  ),
  _row(
    "order of the ODE", EVALUATE,
    ('config.eval.sampler.order is no argument of "ode"',),
    eval__sampler__order=2,
  ),
  _row(
    "noise of a solver", SAMPLE,
    ('config.sample.sampler.noise_level is no argument of "unipc"',),
    sample__sampler__name="unipc", sample__sampler__noise_level=0.7,
  ),
  _row(
    "evaluation in a run of align", "align_scenes.py:smoke",
    ('config.eval.sampler.name="rk45"',), eval__sampler__name="rk45",
  ),
  _row(
    "no noise in an evaluation's SDE", EVALUATE,
    ("config.eval.sampler.noise_level=0.0", 'sampler.name="ode"'),
    eval__sampler__name="flow_sde", eval__sampler__noise_level=0.0,
  ),
  _row(
    "noise without end", GRPO, ("config.rollout.sampler.noise_level=inf",),
    rollout__sampler__noise_level="inf",
  ),
  _row(
    "noise that is no number", GRPO,
    ("config.rollout.sampler.noise_level=nan",),
    rollout__sampler__noise_level="nan",
  ),
  # Windows.
  _row(
    "window on a solver", "align_scenes.py:smoke",
    ("config.rollout.window_size=2", '"unipc" draws no noise'),
    rollout__window_size=2, rollout__sampler__name="unipc",
  ),
  _row(
    "window past the end", GRPO,
    ("a window of 3 steps from step 2 does not fit into 4 steps",),
    rollout__window_start=2, rollout__window_size=3,
  ),
  _row(
    "window of no steps", GRPO, ("config.rollout.window_start=1 without",),
    rollout__window_start=1, rollout__window_size=0, rollout__num_steps=3,
  ),
  # Schedules and times.
  _row(
    "unknown grid", WAN,
    ('config.rollout.schedule.grid="unipcs"', 'did you mean "unipc"'),
    rollout__schedule__grid="unipcs",
  ),
  _row(
    "shift beyond float32", WAN, ("rollout.shift=1e+12", "no times that differ"),
    rollout__shift=1e12,
  ),
  _row(
    "negative shift", SD3, ("config.rollout.shift=-3.0",), rollout__shift=-3.0
  ),
  _row(
    "terminal of one step", SD3, ("config.sample.num_steps=1", "at least 2"),
    rollout__schedule__name="dynamic", rollout__schedule__terminal=0.02,
    sample__num_steps=1,
  ),
  _row(
    "half a step", SAMPLE, ("config.sample.num_steps",), sample__num_steps=2.5
  ),
  _row(
    "steps below one", EVALUATE, ("config.eval.num_steps=0",), eval__num_steps=0
  ),
  # Negative prompts.
  _row(
    "negative prompt of the scenes", SAMPLE,
    ('config.data.negative_prompt="blurry"', "has its own text embeddings"),
    data__negative_prompt="blurry",
  ),
  _row(
    "negative prompt in a run of align", GRPO,
    ('config.data.negative_prompt="blurry"',), data__negative_prompt="blurry",
  ),
  _row(
    "negative prompt without guidance", FLUX,
    ('config.data.negative_prompt="blurry"', "no guidance reads it"),
    data__negative_prompt="blurry",
  ),
  _row(
    "NUL in a negative prompt", SD3,
    ("config.data.negative_prompt=", "holds NUL"),
    data__negative_prompt="a\0b",
  ),
  _row(
    "negative prompt that is not UTF-8", SD3,
    ("config.data.negative_prompt=", "half a character"),
    data__negative_prompt="a\udcff",
  ),
  _row(
    "negative prompt of nothing to see", SD3,
    ("config.data.negative_prompt=", "looks empty", "U+200B"),
    data__negative_prompt="\u200b",
  ),
  _row(
    "long negative prompt of the scenes", SAMPLE,
    ("config.data.negative_prompt=", "..."), data__negative_prompt="bad " * 500,
  ),
  _row(
    "lines in a negative prompt of the scenes", SAMPLE,
    ("config.data.negative_prompt=", r"a\nb"), data__negative_prompt="a\nb",
  ),
  _row(
    "misspelled negative prompt", SD3, ('did you mean "data.negative_prompt"',),
    data__negativ_prompt="blurry",
  ),
  # Sizes.
  _row(
    "odd latents", FLUX, ("model.latent_side=17 is odd",), model__latent_side=17
  ),
  _row(
    "odd video", WAN, ("model.latent_height=5 is odd",), model__latent_height=5
  ),
  _row(
    "side of the table of places", SD3, ("model.latent_side=26",),
    model__latent_side=26,
  ),
  _row(
    "no latents", SD3, ("config.model.latent_side=0",), model__latent_side=0
  ),
  _row(
    "no frames", WAN, ("config.model.frames=0",), model__frames=0
  ),
  _row(
    "boundary that is no time", WAN22, ("model.boundary=875.0",),
    model__boundary=875.0,
  ),
  _row(
    "guidance below the boundary", WAN22, ("model.low_guidance=-3.0",),
    model__low_guidance=-3.0,
  ),
  _row(
    "guidance without end", SAMPLE, ("config.sample.guidance_scale=inf",),
    sample__guidance_scale="inf",
  ),
  _row(
    "distilled guidance that is no number", FLUX,
    ("config.model.guidance=nan",), model__guidance="nan",
  ),
]  # fmt: skip
