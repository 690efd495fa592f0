"""Fine-tuning by its parts: captions left out, times, encodings, the cache."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

from jaxreward import objectives, setup
from jaxreward.data import aspect_buckets, dataset_images, prompts
from jaxreward.data.encoding_cache import EncodingCache
from jaxreward.errors import UserError
from jaxreward.jobs import align, finetune
from jaxreward.setup import (
  encoder_outputs,
  encodings,
  fine_tuning,
  offline,
  prompt_encoding,
)
from tests import tiny

SD3 = "finetune.py:sd35_medium,smoke"


def dataset(folder, sizes=((40, 30), (30, 40), (36, 36), (20, 40))):
  rng = np.random.default_rng(0)
  lines = []
  for i, size in enumerate(sizes):
    pixels = rng.integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f"{i}.png")
    lines.append({"file_name": f"{i}.png", "text": f"a {i % 2}"})
  (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
  return folder


def config_of(folder, *overrides, spec=SD3):
  given = {"data.dataset": folder, "data.grammar": "free"}
  return tiny.load(spec, given, *overrides)


def encoded(config, cache):
  policy = setup.make_policy(config)
  records = offline.records(config)
  inspection = dataset_images.inspect(records, "d")
  shapes = fine_tuning.shapes(config, policy)
  decoder = jax.jit(policy.decoder)(jax.random.key(0))
  return encodings.Encodings(
    config, policy, records, inspection, shapes,
    aspect_buckets.nearest(inspection.sizes, shapes),
    encodings.Encoders(config, policy, decoder=decoder), cache,
  )  # fmt: skip


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_cache_changes_no_number_and_is_known_by_content(tmp_path):
  folder = tmp_path / "d"
  folder.mkdir()
  config = config_of(dataset(folder), {"finetune.buckets": "32x24,24x32"})
  fresh = encoded(config, None)
  np.testing.assert_array_equal(fresh.shape_of, [0, 1, 0, 1])
  cache = EncodingCache(tmp_path / "cache")
  kept = encoded(config, cache)
  kept.fill()
  kept.encoders.latents = kept.encoders.texts = None  # neither is needed again
  for rows in ([0, 2], [3, 1]):
    one, two = fresh.batch(rows), kept.batch(rows)
    assert tiny.same_bits(one, two) and set(one) == set(two)
    assert one["x0"].shape[1:3] == ((16, 12), (12, 16))[rows[0] == 3]
  assert tiny.same_bits(fresh.empty, kept.empty)
  names = {p.name for p in (tmp_path / "cache").rglob("*.npz")}
  assert len(names) == 4 + 2 + 1  # images, captions, the empty one
  # Another picture is another entry, and nothing else is.
  first = kept.batch([0])["x0"]
  Image.new("RGB", (30, 40)).save(folder / "0.png")
  again = encoded(config, cache)
  again.fill()
  more = {p.name for p in (tmp_path / "cache").rglob("*.npz")}
  assert names < more and len(more) == len(names) + 1
  assert np.abs(again.batch([0])["x0"] - first).max() > 0
  # A damaged one is told, and made anew by the next start.
  path = next((tmp_path / "cache").rglob("*.npz"))
  path.write_bytes(path.read_bytes()[:-40])
  assert cache.read(path.stem) is None
  with pytest.raises(UserError, match="gone or damaged"):
    encoder_outputs.entry_of(cache, path.stem)
  assert not cache.has(path.stem)


@pytest.mark.job
@pytest.mark.turns(3)
def test_each_caption_is_encoded_once(tmp_path):
  """In rows of any shape, and not again for images that are added."""
  folder = tmp_path / "d"
  folder.mkdir()
  sizes = ((40, 30), (30, 40)) * 5
  config = config_of(
    dataset(folder, sizes), {"finetune.buckets": "32x24,24x32"}
  )
  asked = []

  def counted(cache):
    rows = encoded(config, cache)

    def texts(captions, pixels=None):
      asked.extend(captions)
      return {"words": np.array([[len(c)] for c in captions], np.float32)}

    rows.encoders.texts = texts
    rows.encoders.latents = lambda pixels: np.zeros((len(pixels), 2))
    return rows

  cache = EncodingCache(tmp_path / "cache")
  counted(cache).fill()
  assert sorted(asked) == ["", "a 0", "a 1"]
  asked.clear()
  Image.new("RGB", (30, 40)).save(folder / "0.png")
  counted(cache).fill()
  assert not asked
  fresh = counted(None)
  words = fresh.batch([0, 2, 0])["words"]["words"]
  assert asked == ["a 0"] and (words == 3).all()


@pytest.mark.job
@pytest.mark.turns(2)
def test_encodings_of_preferences_are_made_once(tmp_path):
  """Of images, words and sources; a second start loads no encoder."""
  config = tiny.load(
    "offline.py:klein_4b_edit,smoke",
    {"data.preferences": "pairs.jsonl", "rollout.prompts": 2},
  )
  policy = setup.make_policy(config)
  cache = offline.encoding_cache(config, policy, epath.Path(tmp_path))
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, 2, 36, 36, 3), np.uint8)
  images[1, 1] = images[0, 0]
  batch = prompts.batch(
    [prompts.Prompt("make it red"), prompts.Prompt("a cat")]
  )
  source = rng.random((2, 36, 36, 3), np.float32)
  batch = dataclasses.replace(batch, source=source)

  def start(decoder, encoder=None):
    encoders = encodings.Encoders(config, policy, decoder=decoder)
    encode = prompt_encoding.make_encode(
      config, policy, decoder=decoder, encoder=encoder, cache=cache
    )
    return encodings.latents_of(encoders, cache)(images), encode(batch).embedded

  decoder = jax.jit(policy.decoder)(jax.random.key(0))
  latents, embedded = start(decoder)
  # What an update encodes without a cache, to rounding.
  plan = align.make_plan(config, 1)
  to_latents = offline.encoder(config, policy)
  want = jax.jit(lambda x: offline.samples(to_latents, x, plan, decoder))(
    images
  )
  np.testing.assert_allclose(
    latents.reshape(4, *policy.latent_shape), want.latents[0, :4], atol=1e-5
  )
  plain = prompt_encoding.make_encode(config, policy, decoder=decoder)(batch)
  assert tiny.same_bits(embedded, plain.embedded)
  names = {p.name for p in tmp_path.rglob("*.npz")}
  assert len(names) == 3 + 2 + 1 + 2  # images, words, none, sources
  kept = [cache.read(name.removesuffix(".npz")) for name in names]
  size = sum(x.nbytes for x in jax.tree.leaves(kept))
  none = offline.encoded_bytes(dataclasses.replace(policy, pictures=None), 0)
  image = 4 * np.prod(policy.latent_shape)  # one of the four is there twice
  assert size == 2 * offline.encoded_bytes(policy, 2) + none - image
  again = start(None, lambda: pytest.fail("an encoder is loaded"))
  assert tiny.same_bits(again, (latents, embedded))
  # The update takes them as samples.
  samples = offline.samples(lambda: None, latents, plan)
  np.testing.assert_array_equal(
    samples.latents[0, :4], latents.reshape(4, *policy.latent_shape)
  )


def test_encoders_are_known_by_their_weights(tmp_path):
  policy = tiny.small_policy()
  file = tmp_path / "a.safetensors"
  section = tiny.load(SD3).autoencoder.copy_and_resolve_references()
  with section.unlocked():
    section.weights = str(tmp_path)
  marks = []
  for data in (b"a" * 9, b"a" * 8 + b"b", b"a" * 10):
    file.write_bytes(data)
    marks.append(encodings.fingerprint(section, 0, policy))
  assert len(set(marks)) == 3
  assert encodings.fingerprint(section, 1, policy) == marks[-1]


def test_captions_left_out_keep_the_images_to_start_from():
  words = {"words": jnp.ones((3, 2)), "picture": jnp.full((3, 2), 5.0)}
  empty = {"words": jnp.zeros((1, 2))}
  dropped = jnp.array([True, False, True])
  got = fine_tuning.without_captions(words, empty, dropped)
  np.testing.assert_array_equal(got["words"][:, 0], [0, 1, 0])
  np.testing.assert_array_equal(got["picture"], words["picture"])


def loss_of(**options):
  policy = tiny.small_policy()
  trainable = setup.make_trainable(tiny.load("base.py"), policy)
  options = dict(density=lambda u: u, seed=3) | options
  return fine_tuning.Loss(trainable, objectives.flow_matching, **options)


@pytest.mark.job
@pytest.mark.turns(3)
def test_rows_draw_alike_in_any_split_and_times_are_shifted():
  loss = loss_of(caption_drop=0.5)
  params = loss.trainable.policy.init(jax.random.key(0))
  draw = np.random.default_rng(0)
  micro = {
    "x0": draw.normal(size=(4, 36, 36, 3)).astype(np.float32),
    "words": draw.integers(1, 9, (4, 5)).astype(np.int32),
    "weight": np.ones(4, np.float32), "shift": np.full(4, 3.0, np.float32),
    "row": np.arange(4),
  }  # fmt: skip
  context = {"base": None, "empty": np.zeros((1, 5), np.int32)}
  run = jax.jit(lambda m, n: loss(params, m, (n, context))[0].total)
  part = lambda i: jax.tree.map(lambda x: x[i : i + 2], micro)
  whole = float(run(micro, 7))
  assert float(run(part(0), 7) + run(part(2), 7)) == pytest.approx(whole, 1e-5)
  assert float(run(micro, 8)) != whole
  t = loss.times(jnp.array([0.0, 0.5, 1.0]), jnp.float32(3.0))
  np.testing.assert_allclose(t, [1e-3, 0.75, 1.0], rtol=1e-6)


@pytest.mark.parametrize(
  ("given", "words"),
  [
    ({"finetune.buckets": "64"}, 'buckets: "64" is no HEIGHTxWIDTH'),
    ({"finetune.buckets": "35x36"}, '"35x36": "sd3" takes no such size'),
    ({"finetune.buckets": "32x24,32x24"}, "a size appears twice"),
    ({"finetune.microbatch": 3}, "microbatch=3 does not divide"),
    ({"data.dataset": ""}, "config.data.dataset is empty"),
    ({"objective.name": "awm"}, 'objective.name="awm"'),
  ],
)
def test_what_is_refused(tmp_path, given, words):
  with pytest.raises(UserError, match=words):
    finetune.check(config_of(tmp_path, given))
