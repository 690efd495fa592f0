"""Templates of questions.

A template is a text with placeholders in braces for texts, such as {prompt},
and images, such as {image}. {answer} is the sentence that asks for the form of
the answer. Other braces are left unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from jaxreward import paths, reading
from jaxreward.data import wordings
from jaxreward.errors import UserError, nearest, shown
from jaxreward.rewards.remote.pictures import Picture

POINTWISE = """\
{image}
This picture was made for the prompt: {prompt}
How well does it show all that the prompt asks for, and how well is it made? \
Give a score from {low} (not at all) to {high} (perfectly). {answer}"""

YES_NO = """\
{image}
Does this picture show all that this prompt asks for: {prompt}
{answer}"""

PAIRWISE = """\
First picture:
{first}
Second picture:
{second}
Both were made for the prompt: {prompt}
Which of them shows better what the prompt asks for? Where they are equal in \
this, which is made better? {answer}"""

BEST = """\
{images}
All were made for the prompt: {prompt}
Which of them shows best what the prompt asks for? Where they are equal in this, \
which is made best? {answer}"""

SCORES = """\
{images}
All were made for the prompt: {prompt}
How well does each show what the prompt asks for, and how well is it made? Give \
each a score from {low} (not at all) to {high} (perfectly). {answer}"""

CHECKLIST = """\
{image}
Look at this picture and answer: {question}
{answer}"""

QUESTIONS = """\
Pictures will be made for the prompt: {prompt}
Write at most {most} questions to check such a picture with. Each asks for one \
thing that the prompt asks for and is answered by yes or no; yes means that the \
picture is right. {answer}"""

# Questions in this library's words that lead to the answers which the published
# judges were trained to give, by name: a template may be one of these.
NAMED = {
  "unified_reward_point": """\
{image}
You see an image that was generated from a text caption. Judge it by two things:
1. Alignment: are the objects, their attributes and their relations those of the \
caption?
2. Quality: is it clear, detailed, right in its colours, and pleasing?
Then give it a score from {low} to {high} after 'Final Score:'.
Text Caption: [{prompt}]""",
  "unified_reward_pair": """\
{first}
{second}
You see two images that were generated from a text caption. Compare them by two \
things:
1. Alignment: are the objects, their attributes and their relations those of the \
caption?
2. Quality: which is clearer, more detailed, right in its colours, and pleasing?
Conclude with "Image 1 is better than Image 2.", "Image 2 is better than Image 1." \
or "Both images are equally good."
Text Caption: [{prompt}]""",
  "unified_reward_think": """\
{first}
{second}
You see two images that were generated from a caption. Judge both by how they \
agree with the caption, by their look, by how real they are, and by whatever else \
matters here; give each a score from 1 to 10 on every dimension, with the reason, \
and add the scores up. Write all of this within <think> and </think>. Then write \
within <answer> and </answer> exactly 'Image 1 is better' or 'Image 2 is better'.
Caption: [{prompt}]""",
  "visual_quality_r1": """\
{image}
How good is the quality of this picture? Rate it by a number from {low} to {high} \
with two decimals, where {low} is very poor and {high} excellent. Write your \
thoughts within <think> and </think> if you have any, and only the score within \
<answer> and </answer>. (The picture was made for: {prompt})""",
  "better_than_reference": """\
First picture:
{first}
Second picture:
{second}
Both were made for the prompt: {prompt}
Is the second picture better than the first, by what the prompt asks for and by how \
well it is made? {answer}""",
  "closer_to_original": """\
Original:
{source}
First picture:
{first}
Second picture:
{second}
Both were made to be the original again, from what is left of it and these words: \
{prompt}
Which of them looks more like the original? {answer}""",
  "edit_score": """\
{source}
{image}
You are an expert of images. The first of these two, which a model has made, was \
edited into the second by the instruction below; they may look alike where the edit \
has failed. Judge the edit by two numbers from 0 to {high}:
1. Is the instruction carried out? 0: not at all; {high}: perfectly.
2. Is nothing else changed? 0: the second is another image; {high}: it is the first \
with as little changed as the instruction needs.
Answer with JSON, with a short reason first: {"reasoning" : "...", "score" : [first, \
second]}
Editing instruction: {prompt}""",
  "edit_score_quality": """\
{image}
You are an expert of images. A model has made this one. Judge how well it is made by \
two numbers from 0 to {high}:
1. Does it look natural? 0: not at all, distances, shadows or light are wrong; \
{high}: it does.
2. Is it free of artefacts, such as distortions, watermarks, scratches, blurred \
faces, odd bodies and things that do not belong together? 0: large parts are full of \
them; {high}: there are none.
Answer with JSON, with a short reason first: {"reasoning" : "...", "score" : [first, \
second]}""",
  "video_align": """\
Judge this generated video by three things, each by itself and from 0, the worst, to \
10, the best.
Visual quality, whatever moves: is it possible, clear, rich in detail, of good taste, \
and safe to show?
The rating of Visual Quality: <|VQ_reward|>
Motion quality: is it stable, natural, smooth, of one piece with what does not move, \
clear while it moves, and large enough?
The rating of Motion Quality: <|MQ_reward|>
Text alignment: do the subjects, what they do, the surroundings, the style and the \
camera's motion agree with the prompt?
Textual prompt - {prompt}
The rating of Text Alignment: <|TA_reward|>""",
  "edit_done": """\
First picture:
{source}
Second picture:
{image}
The second was made from the first for the instruction: {prompt}
Is what it asks for done? {answer}""",
  "edit_kept": """\
First picture:
{source}
Second picture:
{image}
The second was made from the first for the instruction: {prompt}
Is everything else as it was? {answer}""",
  "edit_following": """\
First picture:
{source}
Second picture:
{image}
The second was made from the first for the instruction: {prompt}
How much of what it asks for is done? Give a score from {low} (not at all) to \
{high} (perfectly). {answer}""",
  "edit_keeping": """\
First picture:
{source}
Second picture:
{image}
The second was made from the first for the instruction: {prompt}
How much of everything else is as it was? Give a score from {low} (not at all) to \
{high} (perfectly). {answer}""",
  "picture_quality": """\
{image}
This picture was made for the prompt: {prompt}
Whatever it shows, how well is it made? Give a score from {low} (not at all) to \
{high} (perfectly). {answer}""",
}
# Those that a judge of one's own is taught.
OWN = (
  "edit_done", "edit_kept", "edit_following", "edit_keeping", "picture_quality"
)  # fmt: skip

_PLACE = re.compile(r"\{([a-z]+)\}")

Parts = tuple[str | Picture, ...]


def read(
  files: Sequence[str],
  default: str,
  known: Sequence[str],
  needed: Sequence[str],
) -> tuple[str, ...]:
  """The templates in some files, or the default.

  Args:
    files: one or several.
    default: used without files.
    known: allowed placeholders, besides "answer".
    needed: required placeholders.

  Raises:
    UserError: an unreadable file, or an unknown or missing placeholder.
  """
  files = [files] if isinstance(files, str) else files
  known = (*known, "answer")
  texts = []
  for file in files:
    text = text_of(file)
    names = places(text)
    for name in names:
      if name not in known:
        raise UserError(
          f"templates={shown(file, 100)}: {{{shown(name, 40)}}} stands for"
          " nothing"
          f"{nearest(name, known)}; known: {', '.join(known)}"
        )
    for name in needed:
      if name not in names:
        raise UserError(
          f"templates={shown(file, 100)}: {{{name}}} has no place in it"
        )
    texts.append(text)
  return tuple(texts) or (default,)


def default(question: str, *, told: bool = False, thinks: bool = False) -> str:
  """A built-in question for a judge that is told what to judge by, or thinks."""
  more = "Judge by this alone: {principle}\n" if told else ""
  more += "Think first, within <think> and </think>. " if thinks else ""
  return question.replace("{answer}", more + "{answer}")


def places(text: str) -> list[str]:
  """Names of a template's placeholders, as often as they stand in it."""
  return _PLACE.findall(text)


def text_of(file: str) -> str:
  """The template in a file, or that of a name of `NAMED`.

  Raises:
    UserError: it cannot be read, or is empty.
  """
  if file in NAMED:
    return NAMED[file]
  text = reading.text(paths.find(file, "templates")).strip()
  return wordings.check_prompt(
    text, f"templates={shown(file, 100)}", "the text"
  )


def fill(template: str, fields: Mapping[str, str | Picture]) -> Parts:
  """The texts and images of a template, in order.

  Args:
    template: see the module's docstring.
    fields: values of the placeholders.

  Raises:
    UserError: {source} where no prompt has an image to start from.
  """
  if "source" not in fields and "{source}" in template:
    raise UserError(
      "templates: {source} is a picture to start from, which these prompts do"
      " not have"
    )
  parts: list[str | Picture] = []
  for i, piece in enumerate(_PLACE.split(template)):
    value = fields[piece] if i % 2 else piece
    if isinstance(value, str) and parts and isinstance(parts[-1], str):
      parts[-1] += value
    elif value:
      parts.append(value)
  return tuple(parts)
