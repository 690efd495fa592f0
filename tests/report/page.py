"""Reads a page strictly: every element closed, in order."""

import html.parser

VOID = {"meta", "img", "br", "hr", "link", "input"}
OPTIONAL_TEXT = {"script", "style"}


class Page(html.parser.HTMLParser):
  """Elements, their attributes and texts; `errors` lists what is not nested."""

  def __init__(self, text):
    super().__init__(convert_charrefs=True)
    self.open, self.errors, self.elements, self.texts = [], [], [], []
    self.raw = {}
    self.ids = []
    self.feed(text)
    self.close()
    self.errors += [f"<{tag}> never closed" for tag in self.open]

  def handle_starttag(self, tag, attrs):
    attributes = dict(attrs)
    if len(attributes) != len(attrs):
      self.errors.append(f"<{tag}> repeats an attribute")
    self.elements.append((tag, attributes))
    if "id" in attributes:
      self.ids.append(attributes["id"])
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    if not self.open or self.open[-1] != tag:
      self.errors.append(f"</{tag}> closes {self.open[-1:]}")
    else:
      self.open.pop()

  def handle_data(self, data):
    inside = self.open[-1] if self.open else ""
    if inside in OPTIONAL_TEXT:
      self.raw[inside] = self.raw.get(inside, "") + data
    else:
      self.texts.append(data)

  @property
  def text(self):
    return " ".join(" ".join(self.texts).split())

  def of(self, tag):
    return [attributes for name, attributes in self.elements if name == tag]
