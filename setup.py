"""The wheel holds the configs inside the package; all else is pyproject.toml's."""

import pathlib
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py

CONFIGS = pathlib.Path("configs")


class BuildWithConfigs(build_py):
  """Puts configs/ at jaxreward/configs/; an editable install reads them here."""

  def run(self):
    super().run()
    if not self.editable_mode:
      for source, target in self._configs().items():
        pathlib.Path(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)

  def get_outputs(self, include_bytecode=True):
    return super().get_outputs(include_bytecode) + list(
      self._configs().values()
    )

  def get_source_files(self):
    return super().get_source_files() + list(self._configs())

  def _configs(self):
    inside = pathlib.Path(self.build_lib) / "jaxreward"
    return {
      str(path): str(inside / path) for path in sorted(CONFIGS.rglob("*.py"))
    }


setup(cmdclass={"build_py": BuildWithConfigs})
