"""From texts to pictures, guidance on: the pipelines of diffusers and ours.

Each reads one folder of small random parts, starts from the same noise, and
takes the model's own solver, negative prompt and pictures.
"""

import pytest

from jaxreward.models.autoencoders import flux2_vae, vae, video_vae
from jaxreward.models.policies import flux, flux2, sd3, wan, z_image

pytestmark = [pytest.mark.parity, pytest.mark.turns(3, 2)]
LATENTS, PIXELS = 1e-4, 2e-4  # of the largest of them


@pytest.fixture
def run():
  """The helpers beside this file, where PyTorch and diffusers are."""
  from tests.jobs import pipeline_peers

  return pipeline_peers


def euler(**options):
  import diffusers

  return diffusers.FlowMatchEulerDiscreteScheduler(**options)


def unipc(shift):
  import diffusers

  return diffusers.UniPCMultistepScheduler(
    flow_shift=shift, use_flow_sigmas=True, prediction_type="flow_prediction"
  )


def check(run, found, wanted, frames=0, given=0):
  """Latents channels last and pictures, or strips of frames, agree.

  Frames of latents that are given are put back after the last step over there,
  and seen in the pictures alone.
  """
  latents, images = found
  theirs, pixels = wanted
  theirs = theirs.movedim(1, -1).numpy()
  run.peers.assert_near(latents[:, given:], theirs[:, given:], LATENTS)
  if frames:  # [B, F, H, W, 3] side by side
    b, f, h, w, c = pixels.shape
    assert f == frames
    pixels = pixels.transpose(0, 2, 1, 3, 4).reshape(b, h, f * w, c)
  run.peers.assert_near(images, pixels, PIXELS)
  assert 0.05 < images.std()


def test_sd3(run, monkeypatch, tmp_path):
  """Three text encoders and a negative prompt."""
  import diffusers

  run.widen(monkeypatch, sd3)
  parts = run.save(tmp_path, {
    "transformer": run.built(diffusers.SD3Transformer2DModel, sd3),
    "vae": run.built(diffusers.AutoencoderKL, vae),
    "text_encoder": run.towers.clip_peer(24, True, 0),
    "text_encoder_2": run.towers.clip_peer(40, True, 1),
    "text_encoder_3": run.towers.t5_peer(),
  })  # fmt: skip
  pipe = diffusers.StableDiffusion3Pipeline(
    scheduler=euler(shift=3.0), **parts,
    tokenizer=run.tokens(tmp_path / "tokenizer", run.CLIP),
    tokenizer_2=run.tokens(tmp_path / "tokenizer_2", run.CLIP, pad="a"),
    tokenizer_3=run.tokens(tmp_path / "tokenizer_3", 99),
  )  # fmt: skip
  source, _ = run.write_prompts(tmp_path, run.TEXTS)
  config = run.config_of(
    "sd35_medium", tmp_path, source, "sd3",
    **{
      "model.words": run.CLIP + run.T5, "sample.num_steps": 4,
      "sample.guidance_scale": 4.5,
    },
  )  # fmt: skip
  start, latents = run.noise(config, 2)
  wanted = run.theirs(
    pipe, latents, run.TEXTS, guidance_scale=4.5, num_inference_steps=4,
    height=36, width=36, max_sequence_length=run.T5,
  )  # fmt: skip
  check(run, run.ours(config, start, monkeypatch), wanted)


def flux_parts(run, folder):
  import diffusers

  parts = run.save(folder, {
    "transformer": run.built(diffusers.FluxTransformer2DModel, flux),
    "vae": run.built(diffusers.AutoencoderKL, vae),
    "text_encoder": run.towers.clip_peer(24, False, 0),
    "text_encoder_2": run.towers.t5_peer(),
  })  # fmt: skip
  scheduler = euler(
    shift=3.0, base_shift=0.5, max_shift=1.15, use_dynamic_shifting=True
  )
  return dict(
    parts, scheduler=scheduler,
    tokenizer=run.tokens(folder / "tokenizer", run.CLIP),
    tokenizer_2=run.tokens(folder / "tokenizer_2", 99),
  )  # fmt: skip


@pytest.mark.parametrize("model", ["flux_dev", "kontext"])
def test_flux(run, monkeypatch, tmp_path, model):
  """Distilled guidance, true guidance over it, and a picture to edit."""
  import diffusers

  run.widen(monkeypatch, flux)
  edit = model == "kontext"
  kind = diffusers.FluxKontextPipeline if edit else diffusers.FluxPipeline
  pipe = kind(**flux_parts(run, tmp_path))
  source, images = run.write_prompts(tmp_path, run.TEXTS, 36 * edit)
  config = run.config_of(
    model, tmp_path, source, "flux",
    **{
      "model.words": run.T5, "sample.num_steps": 4,
      "sample.guidance_scale": 2.5,
    },
  )  # fmt: skip
  start, latents = run.noise(config, 2)
  b, c, h, w = latents.shape
  more = (
    dict(image=images, _auto_resize=False, max_area=36 * 36) if edit else {}
  )
  packed, pixels = run.theirs(
    pipe, pipe._pack_latents(latents, b, c, h, w), run.TEXTS,
    guidance_scale=config.model.guidance, true_cfg_scale=2.5,
    num_inference_steps=4, height=36, width=36, max_sequence_length=run.T5,
    **more,
  )  # fmt: skip
  wanted = pipe._unpack_latents(packed, 36, 36, 2), pixels
  check(run, run.ours(config, start, monkeypatch), wanted)


def test_z_image(run, monkeypatch, tmp_path):
  """Guidance that the pipeline counts from 0, prompts of unequal length."""
  import diffusers

  tokenizer = run.tower_peers.chat_tokens(tmp_path / "tokenizer")
  parts = run.save(tmp_path, {
    "transformer": run.built(diffusers.ZImageTransformer2DModel, z_image),
    "vae": run.built(diffusers.AutoencoderKL, vae),
    "text_encoder": run.tower_peers.qwen3(len(tokenizer)),
  })  # fmt: skip
  pipe = diffusers.ZImagePipeline(
    **parts, scheduler=euler(shift=6.0), tokenizer=tokenizer
  )
  source, _ = run.write_prompts(tmp_path, run.TEXTS)
  config = run.config_of(
    "z_image", tmp_path, source, "z_image",
    **{
      "model.words": 33, "sample.num_steps": 4, "sample.guidance_scale": 3.5,
    },
  )  # fmt: skip
  start, latents = run.noise(config, 2)
  wanted = run.theirs(
    pipe, latents, list(run.TEXTS), guidance_scale=2.5, num_inference_steps=4,
    height=36, width=36, max_sequence_length=33,
  )  # fmt: skip
  check(run, run.ours(config, start, monkeypatch), wanted)


def test_flux2_klein(run, monkeypatch, tmp_path):
  """Words of three layers, packed latents, a shift by the number of steps."""
  import diffusers

  tokenizer = run.tower_peers.chat_tokens(tmp_path / "tokenizer")
  parts = run.save(tmp_path, {
    "transformer": run.built(diffusers.Flux2Transformer2DModel, flux2),
    "vae": run.built(diffusers.AutoencoderKLFlux2, flux2_vae),
    "text_encoder": run.tower_peers.qwen3(len(tokenizer), width=8, depth=4),
  })  # fmt: skip
  pipe = diffusers.Flux2KleinPipeline(
    **parts, tokenizer=tokenizer,
    scheduler=euler(shift=3.0, use_dynamic_shifting=True),
  )  # fmt: skip
  source, _ = run.write_prompts(tmp_path, run.TEXTS)
  config = run.config_of(
    "klein_base_4b", tmp_path, source, "flux2_klein",
    **{
      "model.words": 24, "sample.num_steps": 4, "sample.guidance_scale": 2.5,
      "text_encoder.layers": (1, 2, 3), "data.negative_prompt": "",
    },
  )  # fmt: skip
  start, latents = run.noise(config, 2)
  packed, pixels = run.theirs(
    pipe, latents, run.TEXTS, negative=False, guidance_scale=2.5,
    num_inference_steps=4, height=36, width=36, max_sequence_length=24,
    text_encoder_out_layers=(1, 2, 3),
  )  # fmt: skip
  wanted = packed.mT.unflatten(-1, (9, 9)), pixels
  check(run, run.ours(config, start, monkeypatch), wanted)


STEPS = 6
T2V = dict(size="tiny", coder="tiny", side=0, low=None, boundary=None)
I2V = T2V | dict(side=32)
WAN = {
  "wan_t2v": T2V | dict(shift=3.0, scale=4.5),
  "wan22_t2v": T2V | dict(shift=12.0, scale=4.0, boundary=0.875, low=3.0),
  "wan_i2v": I2V | dict(shift=3.0, scale=4.5, size="tiny_i2v"),
  "wan22_i2v": I2V
  | dict(shift=5.0, scale=3.5, boundary=0.9, size="tiny22_i2v"),
  "wan22_ti2v_5b": I2V | dict(shift=5.0, scale=5.0, coder="tiny22"),
}


def wan_pipe(run, folder, model):
  """The pipeline of diffusers, its parts in the folder too."""
  import diffusers

  case = WAN[model]
  draw = lambda seed: run.built(
    diffusers.WanTransformer3DModel, wan, case["size"], seed
  )
  parts = {
    "transformer": draw(0),
    "vae": run.built(diffusers.AutoencoderKLWan, video_vae, case["coder"]),
    "text_encoder": run.towers.t5_peer("UMT5"),
  }
  if case["boundary"]:
    parts["transformer_2"] = draw(1)
  if model == "wan_i2v":
    parts |= run.vision()
  run.save(folder, parts)
  kind = diffusers.WanPipeline
  if case["side"]:
    kind = diffusers.WanImageToVideoPipeline
    parts = dict(image_encoder=None, image_processor=None) | parts
  return kind(
    scheduler=unipc(case["shift"]), boundary_ratio=case["boundary"],
    tokenizer=run.tokens(folder / "tokenizer", 999),
    expand_timesteps=model == "wan22_ti2v_5b", **parts,
  )  # fmt: skip


def wan_config(run, folder, model, source, words):
  """Our recipe with those parts."""
  case = WAN[model]
  changes = {
    "model.words": words, "sample.num_steps": STEPS, "video.frames": 5,
    "sample.guidance_scale": case["scale"], "rollout.shift": case["shift"],
  }  # fmt: skip
  if case["boundary"]:  # both networks, by their folders
    changes["init.checkpoint"] = folder
    changes["model.boundary"] = case["boundary"]
  if model == "wan_i2v":
    changes |= {
      "image_encoder.name": "clip", "image_encoder.weights": folder,
      "image_encoder.dtype": "float32",
    }  # fmt: skip
  return run.config_of(model, folder, source, "wan", **changes)


@pytest.mark.parametrize("model", list(WAN))
def test_wan(run, monkeypatch, tmp_path, model):
  """UniPC, whole times, two networks, first frames and an image encoder."""
  case = WAN[model]
  run.widen(monkeypatch, wan, case["size"])
  pipe = wan_pipe(run, tmp_path, model)
  # Over there a network that sees splits the words off by their number.
  words = 512 if model == "wan_i2v" else run.T5
  texts = run.TEXTS[: 1 if case["side"] else 2]
  source, images = run.write_prompts(tmp_path, texts, case["side"])
  config = wan_config(run, tmp_path, model, source, words)
  assert config.sample.sampler.name == "unipc"
  start, latents = run.noise(config, len(texts))
  options = {"guidance_scale": case["scale"]}
  options |= {"guidance_scale_2": case["low"]} if case["low"] else {}
  options |= {"image": images[0]} if images else {}
  wanted = run.theirs(
    pipe, latents, texts, num_frames=5, height=32, width=32,
    num_inference_steps=STEPS, max_sequence_length=words, **options,
  )  # fmt: skip
  found = run.ours(config, start, monkeypatch)
  check(run, found, wanted, 5, given=model == "wan22_ti2v_5b")
