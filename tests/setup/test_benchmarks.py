"""Benchmarks from their files and folders, and the images that are drawn."""

import json

import numpy as np
import pytest
from etils import epath
from PIL import Image

from jaxreward import jobs, tasks
from jaxreward.data import benchmarks as lib
from jaxreward.data.prompts import Prompt
from jaxreward.errors import UserError
from jaxreward.evaluation import benchmarks as numbers
from jaxreward.evaluation import set_metrics, tables
from jaxreward.setup import benchmarks
from tests import tiny

GENEVAL = [
  {"tag": "single_object", "include": [], "prompt": "a photo of a bench"},
  {"tag": "colors", "include": [], "prompt": "a photo of a red bench"},
  {"tag": "colors", "include": [], "prompt": "a photo of a blue cow"},
]


def save(path, red):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.full((8, 8, 3), (red, 0, 0), np.uint8)).save(path)


def geneval_folder(folder, reds):
  for i, group in enumerate(reds):
    for g, red in enumerate(group):
      save(folder / f"{i:05d}" / "samples" / f"{g:04d}.png", red)
    (folder / f"{i:05d}" / "metadata.jsonl").write_text(json.dumps(GENEVAL[i]))
  return str(folder)


def config_of(*overrides):
  reward = {"rewards.redness.fn": f"{tiny.HERE}:redness"}
  sizes = {"eval.benchmark.side": 8, "eval.benchmark.rows_at_once": 2}
  return tiny.load("evaluate.py:folders,smoke", reward, sizes, *overrides)


FILES = {
  "geneval.jsonl": (GENEVAL, ["0", "1", "2"], ["single_object", "colors", "colors"]),
  "two.jsonl": ([{"prompt": "a", "vqa_list": [], "atom_count": 3}], ["0"], ["3"]),
  "dpg.csv": ("item_id,text,proposition_id\nx1,a dog,1\nx1,a dog,2\nx2,a cat,1",
              ["x1", "x2"], ["all", "all"]),
  "uni.csv": ("index,prompt_en\n7,a dog", ["7"], ["all"]),
  "one.csv": ("category,id,prompt_en\nPortrait,003,a man", ["human/003"],
              ["Portrait"]),
  "wise.json": ([{"Prompt": "a", "prompt_id": 1, "Category": "C"},
                 {"Prompt": "b", "prompt_id": 0, "Category": "C"}],
                ["1", "0"], ["C", "C"]),
  "own.jsonl": ([{"prompt": "a", "key": 2, "category": 0},
                 {"prompt": "b", "key": 0, "category": 1}], ["2", "0"], ["0", "1"]),
  "compbench.txt": ("a dog\na red bench\na dog\n", ["0", "1", "2"], ["all"] * 3),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_prompts_of_public_benchmarks(name, tmp_path):
  content, keys, categories = FILES[name]
  if not isinstance(content, str):
    lines = map(json.dumps, content)
    is_list = name.endswith(".json")
    content = json.dumps(content) if is_list else "\n".join(lines)
  (tmp_path / name).write_text(content)
  items = lib.read(str(tmp_path / name))
  assert [i.key for i in items] == keys
  assert [i.category for i in items] == categories
  # what is drawn is read back, with the file and without it
  prompts = [Prompt(item.prompt) for item in items]
  loaded = benchmarks.Benchmark(items, prompts, tasks.get("free", ""), {}, [])
  draw = lambda prompts, ids: np.zeros((len(prompts), 4, 8, 8, 3), np.float32)
  names = benchmarks.drawn(config_of(), loaded, draw, epath.Path(tmp_path))
  folder = str(tmp_path / benchmarks.FOLDER)
  assert lib.find_images(folder, items) == names
  again = lib.read(folder)
  assert [(i.key, i.category, i.prompt) for i in again] == [
    (i.key, i.category, i.prompt) for i in items
  ]
  assert lib.find_images(folder, again) == names


@pytest.mark.parametrize(
  ("names", "keys"),
  [
    (["00000/samples/0000.png", "00001/samples/0000.png"], ["0", "1"]),
    (["samples/a red bench_000000.png", "samples/a dog_000001.png"], ["0", "1"]),
    (["x1.png", "x2_0.png"], ["x1", "x2"]),
    (["human/m/003.webp", "anime/m/003.webp"], ["human/003", "anime/003"]),
  ],
)  # fmt: skip
def test_images_are_known_by_their_names(names, keys, tmp_path):
  words = ["a red bench", "a dog"]
  items = [
    lib.Item(words[i], "all", key, "row", {}) for i, key in enumerate(keys)
  ]
  for name in names:
    save(tmp_path / name, 9)
  found = lib.find_images(str(tmp_path), items)
  assert found == [[str(tmp_path / name)] for name in names]
  (tmp_path / names[1]).unlink()
  with pytest.raises(UserError, match=r'no image of row, "a dog"'):
    lib.find_images(str(tmp_path), items)


def test_images_of_the_same_words_are_shared_and_grids_are_none(tmp_path):
  items = [
    lib.Item(words, "all", key, "row", {})
    for words, key in (("a dog", "x"), ("a cat", "y"), ("a dog", "z"))
  ]
  names = [f"samples/a dog_{i:06d}.png" for i in range(4)]
  for name in (*names, "samples/a cat_0.png", "a cat.png", "y/grid.png"):
    save(tmp_path / name, 9)
  want = [names[:2], ["samples/a cat_0.png"], names[2:]]
  assert lib.find_images(str(tmp_path), items) == [
    [str(tmp_path / name) for name in group] for group in want
  ]


def test_folders_of_others_are_known_by_their_prompts(tmp_path):
  """GenEval's own, in another order than the file, with its grids."""
  folder = geneval_folder(tmp_path / "a", [[1], [2], [3]])
  save(tmp_path / "a" / "00000" / "grid.png", 9)
  items = [
    lib.Item(GENEVAL[i]["prompt"], "all", str(n), "row", {})
    for n, i in enumerate((2, 0, 1))
  ]
  assert lib.find_images(folder, items) == [
    [f"{folder}/{i:05d}/samples/0000.png"] for i in (2, 0, 1)
  ]


def there(images, prompts):
  """A reward that images that are not there get too."""
  return np.ones(images.shape[:2], np.float32) + 0 * prompts.ids[:, None]


def test_two_folders_are_scored_and_compared(tmp_path):
  """By the mean of red, and the colours of real images."""
  first = [[0, 51], [102, 102], [204, 0]]
  second = [[51, 102], [153, 153], [255]]
  folders = tuple(
    geneval_folder(tmp_path / name, reds)
    for name, reds in (("a", first), ("b", second))
  )
  for i in range(7):
    save(tmp_path / "real" / f"{i}.png", 30 * i)
  section = {"images": folders, "reference": tmp_path / "real", "nearest": 2}
  given = {f"eval.benchmark.{k}": v for k, v in section.items()}
  config = config_of(given, {"rewards.there.fn": f"{__file__}:there"})
  benchmarks.check(config)
  with pytest.raises(UserError, match=r"nearest=5: .*b has 5 images"):
    benchmarks.load(config_of(given, {"eval.benchmark.nearest": 5}))
  assert len(benchmarks.data(config)) == 3 + 3 + 7
  results = benchmarks.run(config, epath.Path(tmp_path / "w"), None)
  share = lambda rows: [np.mean(row) / 255 * 4 for row in rows]
  a, b = share(first), share(second)
  for folder, values in zip(folders, (a, b), strict=True):
    got = results["sides"][folder]["scores"]["redness"]
    want = {"single_object": values[0], "colors": np.mean(values[1:])}
    if (
      folder == folders[1]
    ):  # a prompt with one image, as GenEval: of all images
      want["colors"] = (153 * 2 + 255) / 3 / 255 * 4
    assert got["categories"] == pytest.approx(want, rel=1e-5)
    assert got["overall"] == pytest.approx(np.mean([*want.values()]), rel=1e-5)
    assert got["failed"] == 0
  assert results["sides"][folders[1]]["scores"]["there"]["n"] == 5
  gap = results["differences"]["redness"][folders[1]]
  want = (b[0] - a[0] + want["colors"] - np.mean(a[1:])) / 2
  assert gap.value == pytest.approx(want, rel=1e-5)
  colours = lambda reds: np.array(
    [np.tile([r / 255 - 0.5, -0.5, -0.5], 64) for r in reds]
  )
  real, made = colours(np.arange(7) * 30), colours(np.concatenate(first))
  features = results["sides"][folders[0]]["features"]
  want = set_metrics.frechet_distance(real, made)
  assert features["frechet_distance"] == pytest.approx(want, rel=1e-3)
  rows = tables.benchmark_rows({"benchmark": results})
  assert rows[1][0] == "redness, overall" and len(rows[1]) == 3
  lines = (tmp_path / "w" / benchmarks.SCORES_FILE).read_text().splitlines()
  assert len(lines) == 6 + 5
  assert json.loads(lines[1])["redness"] == pytest.approx(0.8, rel=1e-5)


def test_images_are_drawn_once_in_genevals_layout(tmp_path):
  (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, GENEVAL)))
  config = config_of(
    {
      "eval.benchmark.prompts": tmp_path / "p.jsonl",
      "eval.benchmark.images": "('policy',)",
      "eval.benchmark.group": 2,
    }
  )
  calls, drawn_ids = [], []

  def draw(prompts, ids):
    calls.append([p.text for p in prompts])
    drawn_ids.extend(ids)
    shade = [len(p.text) / 100 for p in prompts]
    return np.ones((2, 2, 8, 8, 3), np.float32) * np.reshape(
      shade, (2, 1, 1, 1, 1)
    )

  workdir = epath.Path(tmp_path / "w")
  results = benchmarks.run(config, workdir, draw)
  texts = [row["prompt"] for row in GENEVAL]
  assert calls == [texts[:2], [texts[2]] * 2]
  got = results["sides"]["policy"]["scores"]["redness"]
  want = np.mean([4 * len(texts[0]), 2 * len(texts[1] + texts[2])]) / 100
  assert got["overall"] == pytest.approx(want, abs=0.02)
  assert (workdir / "images/00002/samples/0001.png").exists()
  assert lib.read(str(workdir / "images"))[2].category == "colors"
  again = benchmarks.run(config, workdir, draw)
  assert again == results and len(calls) == 2
  assert drawn_ids[:3] == [Prompt(text).prompt_id for text in texts]


@pytest.mark.parametrize("size", [1, 2])
def test_ids_do_not_depend_on_what_is_drawn_at_once(size, tmp_path):
  items = [lib.Item("a dog", "all", str(i), "row", {}) for i in range(3)]
  prompts = [Prompt(item.prompt) for item in items]
  loaded = benchmarks.Benchmark(items, prompts, tasks.get("free", ""), {}, [])
  seen = []

  def draw(prompts, ids):
    seen.extend(ids.tolist())
    return np.zeros((len(prompts), 4, 8, 8, 3), np.float32)

  config = config_of({"eval.benchmark.rows_at_once": size})
  benchmarks.drawn(config, loaded, draw, epath.Path(tmp_path))
  first = prompts[0].prompt_id
  assert seen[:3] == [(first + i * 0x9E3779B9) % 2**32 for i in range(3)]


@pytest.mark.parametrize(
  "lacks",
  [
    {"eval.benchmark.reference": "real", "eval.benchmark.nearest": 1,
     "eval.benchmark.tower.weights": "none.safetensors"},
    {"rewards.clip.fn": "clip_score", "rewards.clip.weights": "none.safetensors"},
  ],
)  # fmt: skip
def test_nothing_is_drawn_before_its_judges_are_there(
  lacks, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "p.txt").write_text("a dog")
  for i in range(2):
    save(tmp_path / "real" / f"{i}.png", i)
  config = config_of({"eval.benchmark.prompts": "p.txt"}, lacks)
  with pytest.raises(UserError, match=r"none\.safetensors"):
    benchmarks.run(
      config, epath.Path(tmp_path), lambda *_: pytest.fail("drawn")
    )


def test_a_public_generator_is_checked():
  given = {"eval.benchmark.prompts": "p.txt", "eval.num_steps": 2}
  reward = {"rewards.redness.fn": f"{tiny.HERE}:redness"}
  jobs.check(
    "evaluate", tiny.load("evaluate.py:sd35_medium,smoke", given, reward)
  )


@pytest.mark.parametrize(
  ("given", "says"),
  [
    ({"eval.benchmark.prompts": "x.jsonl", "rewards.redness.fn": "objects",
      "eval.benchmark.group": 0}, "group=0"),
    ({"eval.benchmark.images": "('policy', 'b')"}, "prompts is empty"),
    ({"eval.benchmark.images": "('a', 'a')"}, "named twice"),
    ({"eval.benchmark.prompts": "x.jsonl", "eval.steering.name": "best_of_n"},
     "eval.steering.name"),
  ],
)  # fmt: skip
def test_what_is_refused(given, says):
  with pytest.raises(UserError, match=says):
    benchmarks.check(config_of(given))


def test_a_summary_of_scores_that_failed_is_no_number():
  got = numbers.summary(np.full((2, 2), np.nan), ["a", "b"])
  assert got["categories"] == {} and np.isnan(got["overall"])
