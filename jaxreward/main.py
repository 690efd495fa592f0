"""The only entry: `python -m jaxreward.main --config=FILE.py --workdir=DIR`.

Reads the flags, sets JAX up, takes the working directory and runs `config.job`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import logging as py_logging
import os
import pathlib
import platform
import shlex
import signal
import subprocess
import sys
import traceback
import warnings
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from jaxreward import (
  binding,
  compat,
  jobs,
  paths,
  processes,
  startup,
  user_code,
  workdirs,
)
from jaxreward import config as config_lib
from jaxreward.errors import (
  Lost,
  Stopped,
  UserError,
  nearest,
  one_line,
  shown,
  squeeze,
)

USAGE = """\
python -m jaxreward.main --config=FILE.py[:ARG] --workdir=DIR [flags]
python -m jaxreward.main --serve=DIR [--port=N]

  --config=FILE.py[:ARG]   config file with get_config(arg); looked up from
                           here, then among those that come with the package
  --config.FIELD=VALUE     sets a field, as in --config.optimizer.b1=0.9;
                           tuples as 1,2,3
  --config.rewards.MINE.fn=my.py:score --config.rewards.MINE.weight=0.5
                           adds a reward of your own
  --workdir=DIR            where the run lives, a folder or gs://BUCKET/FOLDER;
                           its path holds no [, *, ? or backslash;
                           the same command goes on with a run that was stopped
  --sweep=FILE.py          runs every override of get_sweep() in DIR/0, DIR/1...;
                           one of "config" names another config
  --dry-run                with --sweep: prints the commands instead
  --check                  checks the config and the files that it names, and runs
                           and writes nothing; needs no --workdir
  --serve=DIR              a page on this machine's loopback that follows the run
                           in DIR and takes votes between its images
  --port=N                 of that page; 0 for any free one
  --help                   this text

Paths start from the working directory; ~ is the home folder.
"""

SWEPT_CONFIG = "config"
_VALUED = ("config", "workdir", "sweep", "serve", "port")
_BARE = ("dry-run", "check", "help")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclasses.dataclass(frozen=True)
class Flags:
  """The command line, split but not interpreted."""

  config: str = ""
  workdir: str = ""
  sweep: str = ""
  serve: str = ""
  port: str = ""
  dry_run: bool = False
  check: bool = False
  help: bool = False
  overrides: tuple[tuple[str, str], ...] = ()


def parse_flags(argv: Sequence[str]) -> Flags:
  """Splits "--name=value" and "--name value"; refuses unknown flags."""
  values: dict = {}
  overrides = []
  rest = list(argv)
  while rest:
    word = rest.pop(0)
    name, equals, value = word.lstrip("-").partition("=")
    if not word.startswith("--") and word != "-h":
      raise UserError(f'unexpected "{word}"; flags look like --name=value')
    is_field = name.startswith("config.")
    if name in ("h", *_BARE) and not equals:
      values["help" if name == "h" else name.replace("-", "_")] = True
      continue
    if name not in _VALUED and not is_field:
      hint = nearest(f"--{name}", [f"--{f}" for f in (*_VALUED, *_BARE)])
      raise UserError(
        f"unknown flag --{name}{hint}; fields of the config are set as "
        f"--config.{name}=VALUE"
      )
    if not equals and rest and not rest[0].startswith("--"):
      value = rest.pop(0)
    elif not equals and is_field:
      value = "true"  # --config.profile
    elif not equals:
      raise UserError(f"--{name} needs a value, as in --{name}=...")
    if is_field:
      overrides.append((name.removeprefix("config."), value))
    else:
      values[name] = value
  return Flags(**values, overrides=tuple(overrides))


class _Console(py_logging.Handler):
  """Writes to whatever stderr is now, so lines go above a progress bar."""

  def emit(self, record: py_logging.LogRecord) -> None:
    severe = record.levelno > py_logging.INFO
    prefix = f"{record.levelname.lower()}: " if severe else ""
    if processes.count() > 1:
      prefix = f"[{processes.index()}] {prefix}"
    startup.say(f"{prefix}{self.format(record)}\n")


def _is_worth_a_line(record: py_logging.LogRecord) -> bool:
  """False for Orbax's info lines and for tracebacks that it raises again.

  Of several processes the first logs everything; the others only warn.
  """
  if record.levelno < py_logging.WARNING and not processes.is_first():
    return False
  if f"{os.sep}orbax{os.sep}" not in record.pathname:
    return True
  return record.levelno >= py_logging.WARNING and not record.exc_info


def configure_logging() -> None:
  """Plain lines on stderr, without the checkpointer's progress messages.

  Pillow's warnings about images are silenced too.
  """
  warnings.filterwarnings("ignore", module=r"PIL\.")
  if any(isinstance(h, _Console) for h in py_logging.getLogger().handlers):
    return
  handler = _Console()
  handler.setFormatter(
    py_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
  )
  handler.addFilter(_is_worth_a_line)
  py_logging.getLogger().addHandler(handler)
  logging.set_verbosity(logging.INFO)


def _cache_dir() -> pathlib.Path:
  """Cache per processor type, since home folders are shared."""
  base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  try:
    text = pathlib.Path("/proc/cpuinfo").read_text()
    features = next(
      (
        line for line in text.splitlines() if line.startswith(("flags", "Feat"))
      ),
      "",
    )
  except OSError:
    features = ""
  kind = f"{platform.machine()}-{zlib.crc32(features.encode()):08x}"
  return pathlib.Path(base).expanduser() / "jaxreward" / "jax" / kind


def configure_jax() -> None:
  """Pins settings and enables the compilation cache, before any array."""
  import jax

  startup.pin_jax()
  compat.cache_no_cpu_collectives()
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
  if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return
  try:
    cache = _cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    if not os.access(cache, os.W_OK):
      raise PermissionError(f"{cache} cannot be written")
  except (OSError, RuntimeError) as error:
    logging.warning("no cache for compiled programs: %s", shown(error, 200))
    return
  jax.config.update("jax_compilation_cache_dir", str(cache))


def collect_rarely() -> None:
  """Spares a process that traces programs most of its garbage collection.

  Tracing makes objects by the million, few of them in cycles, and what is
  imported stays.
  """
  gc.freeze()
  gc.set_threshold(50_000, 20, 50)


def _arguments(flags: Flags) -> list[str]:
  """The flags of one run, in the form `parse_flags` takes."""
  return [
    f"--config={flags.config}",
    f"--workdir={flags.workdir}",
    *(f"--config.{field}={value}" for field, value in flags.overrides),
    *(["--check"] if flags.check else []),
  ]


def _of_run(config: ConfigDict, recorded: ConfigDict) -> ConfigDict:
  """The recorded config for a job that reads a run, on the current devices."""
  _require_kinds(recorded, config)
  merged = recorded.copy_and_resolve_references()
  with merged.unlocked():
    for name in ("job", config.job, "mesh", "processes"):
      merged[name] = config[name]
    _fill(merged, config)
  return merged.lock()


def _fill(config: ConfigDict, defaults: ConfigDict) -> None:
  """Adds fields that did not exist when the run was recorded."""
  for name, value in defaults.items():
    if name not in config:
      config[name] = value
    elif isinstance(value, ConfigDict) and not _is_chosen(name, value):
      _fill(config[name], value)


def _require_kinds(
  recorded: ConfigDict, defaults: ConfigDict, prefix: str = ""
) -> None:
  """Refuses a record whose fields have other types than the defaults.

  Raises:
    UserError: the field, what it is and what it should be.
  """
  for name, value in recorded.items():
    field, like = f"{prefix}{name}", defaults.get(name)
    if like is None or value is None:
      continue
    expected, actual = _kind_of(like), _kind_of(value)
    if expected != actual:
      raise UserError(
        f"{workdirs.CONFIG_FILE} is damaged: {shown(field)} is"
        f" {shown(repr(value))}, not {expected}"
      )
    if isinstance(like, ConfigDict) and not _is_chosen(name, like):
      _require_kinds(value, like, f"{field}.")


def _kind_of(value: Any) -> str:
  """The type of a value as text; int and float are one type."""
  names: tuple[tuple[Any, str], ...] = (
    (ConfigDict, "a section"),
    (bool, "true or false"),
    (int | float, "a number"),
    (str, "text"),
  )
  return next((w for kind, w in names if isinstance(value, kind)), "a list")


def _is_chosen(name: str, section: ConfigDict) -> bool:
  """Whether the fields of a section depend on the method it names."""
  return name.endswith("rewards") or "name" in section


@contextlib.contextmanager
def _blamed_on_record(
  config: ConfigDict, recorded: ConfigDict | None
) -> Iterator[None]:
  """Says of errors in recorded values that they are recorded."""
  try:
    yield
  except UserError as error:
    if recorded is None or str(error).startswith(f"config.{config.job}."):
      raise
    raise UserError(
      f"{workdirs.CONFIG_FILE} is damaged, or of another version: {error};"
      f" {config.job} it with the version that wrote it"
    ) from error


def run(flags: Flags) -> int:
  """Runs the config's job in its working directory; 0 when it is done.

  With `flags.check` it only checks the config and its files.
  """
  if not flags.config:
    raise UserError("--config is missing, as in --config=configs/quickstart.py")
  config = config_lib.load(flags.config, flags.overrides)
  job = jobs.find(config)
  if not (flags.workdir or flags.check or config.job in jobs.LOOKING):
    raise UserError("--workdir is missing, as in --workdir=runs/first")
  startup.require_flags()
  startup.let_devices_meet()
  configure_jax()
  workdir = workdirs.find(flags.workdir or ".")
  if config.job not in jobs.LOOKING:
    paths.require_plain(workdir, "--workdir")
  recorded = None
  if config.job in jobs.READING:
    recorded = workdirs.read_config(workdir)
    config = _of_run(config, recorded)
  with _blamed_on_record(config, recorded):
    jobs.find(config)  # validates the recorded values
    if config.job in jobs.JOBS:
      jobs.check(config.job, config)
  if config.job in jobs.LOOKING and not flags.check:
    job(config, workdir)
    return 0
  config_lib.to_json(config)  # refuses values that cannot be recorded
  if "processes" in config and not flags.check:
    processes.start(**config.processes)
  if "workdir" in config:
    with config.unlocked():
      config.workdir = os.fspath(workdir)
  startup.require_platform()
  if config.job in jobs.JOBS:
    jobs.check_data(config.job, config, workdir)
  jobs.rehearse(config)
  if flags.check:
    if flags.workdir:
      workdirs.require_same(workdir, recorded or config)
    startup.say(
      f"{shown(flags.config, 100)}: the config and its files are in order; nothing"
      " was run\n",
      sys.stdout,
    )
    return 0
  reads = recorded is None  # data, and not weights alone
  with workdirs.take(workdir, recorded or config, with_data=reads):
    if recorded is None:
      workdirs.record_command(workdir, _arguments(flags))
    job(config, workdir)
    jobs.report(config.job, workdir)
    processes.finish()
  return 0


def sweep_overrides(spec: str) -> list[list[tuple[str, str]]]:
  """One list of (field, text) per run, from the file's `get_sweep()`.

  The field `SWEPT_CONFIG` is the config of the run, in the place of `--config`.
  """
  module = config_lib.load_module(spec)
  if not callable(getattr(module, "get_sweep", None)):
    raise UserError(f"{spec}: defines no function get_sweep()")
  try:
    runs = list(module.get_sweep())
  except BaseException as error:
    if isinstance(error, KeyboardInterrupt):
      raise
    file = config_lib.find_file(spec).resolve()
    raise binding.blame(error, spec, file) from error
  if not runs:
    raise UserError(f"{spec}: get_sweep() has returned nothing to run")
  for i, overrides in enumerate(runs):
    if not isinstance(overrides, dict | ConfigDict):
      raise UserError(
        f"{spec}: entry {i} of get_sweep() is a {type(overrides).__name__}; "
        'each is a dict such as {"seed": 1}'
      )
    if keys := [k for k in overrides if not isinstance(k, str)]:
      raise UserError(
        f"{spec}: entry {i} of get_sweep() has the key {shown(repr(keys[0]))};"
        ' each is the name of a field, as in {"seed": 1}'
      )
  return [
    [
      (k, _text_of(v, f"{spec}: entry {i}: {shown(k)}"))
      for k, v in overrides.items()
    ]
    for i, overrides in enumerate(runs)
  ]


def _text_of(value: Any, where: str) -> str:
  with user_code.blamed(where, type(value)):
    return str(value)


def sweep_commands(flags: Flags) -> list[list[str]]:
  """Arguments after `python` for every run; every config is checked first."""
  commands = []
  for i, extra in enumerate(sweep_overrides(flags.sweep)):
    others = [text for field, text in extra if field == SWEPT_CONFIG]
    config = others[0] if others else flags.config
    overrides = (
      *flags.overrides,
      *((k, text) for k, text in extra if k != SWEPT_CONFIG),
    )
    try:
      jobs.find(config_lib.load(config, overrides))
    except UserError as error:
      raise UserError(f"{flags.sweep}: entry {i}: {error}") from error
    run_flags = dataclasses.replace(
      flags,
      config=config,
      workdir=flags.workdir and os.path.join(flags.workdir, str(i)),
      overrides=overrides,
    )
    commands.append(["-m", "jaxreward.main", *_arguments(run_flags)])
  return commands


def serve(flags: Flags) -> int:
  """Serves the page of a run until Ctrl-C; JAX is not imported."""
  others = dataclasses.replace(flags, serve="", port="")
  if others != Flags() or not flags.serve:
    raise UserError("--serve=DIR goes with --port=N and no other flag")
  if flags.port and not (flags.port.isdecimal() and int(flags.port) < 2**16):
    raise UserError(f"--port={shown(flags.port)}: expected 0 to 65535")
  folder = paths.expand(flags.serve, "--serve")
  if "://" in folder:
    raise UserError(
      f"--serve={shown(folder, 100)}: a page is of a folder; copy the run's here"
    )
  from jaxreward.report import serve as page

  server = page.make_server(folder, int(flags.port or page.PORT))
  with server, contextlib.suppress(KeyboardInterrupt):
    line = f"{shown(folder, 100)} is shown at {page.address_of(server)}"
    startup.say(f"{line} until Ctrl-C\n", sys.stdout)
    server.serve_forever()
  return 0


def _run_command(arguments: Sequence[str]) -> int:
  """A child process; Ctrl-C reaches it from the terminal, SIGTERM from here."""
  child = subprocess.Popen([sys.executable, *arguments])
  previous = {
    signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
    signal.SIGTERM: signal.signal(
      signal.SIGTERM, lambda signum, _: child.send_signal(signum)
    ),
  }
  try:
    return child.wait()
  finally:
    for signum, handler in previous.items():
      signal.signal(signum, handler)


def run_sweep(flags: Flags) -> int:
  """Runs or prints every entry; the first failure stops the sweep."""
  if not flags.config or not (flags.workdir or flags.check):
    raise UserError("--sweep needs --config and --workdir")
  commands = sweep_commands(flags)
  for i, command in enumerate(commands):
    if flags.dry_run:
      startup.say(shlex.join(["python", *command]) + "\n", sys.stdout)
      continue
    line = shown(shlex.join(command), 250)
    logging.info("run %d of %d: %s", i + 1, len(commands), line)
    if code := _run_command(command):
      return code if code > 0 else 128 - code
  return 0


def _fail(message: str, code: int = 2) -> int:
  startup.say(f"error: {squeeze(message)}\n")
  return code


def _code_of(error: BaseException) -> int | None:
  """Exit code of a command that failed, after one line; None for a bug."""
  if isinstance(error, Stopped):
    logging.info("%s", error)
    return 128 + error.signum
  if isinstance(error, KeyboardInterrupt):
    logging.info("interrupted")
    return 130
  loss = processes.as_loss(error) if isinstance(error, Exception) else None
  if loss or isinstance(error, Lost):
    return _fail(str(loss or error), os.EX_TEMPFAIL)
  if isinstance(error, UserError):
    return _fail(str(error))
  if isinstance(error, OSError) and error.errno in _FULL:
    return _fail(f"the disk is full: {error.filename or error}")
  if isinstance(error, OSError) and error.errno == errno.EMFILE:
    return _fail(
      "too many open files: raise the limit, as in ulimit -n 4096, and start"
      " the same command again"
    )
  if isinstance(error, MemoryError):
    return _fail(
      f"there is not enough memory ({one_line(error)}); lower the counts and"
      " sizes of the config, such as config.rollout.prompts or .group"
    )
  if isinstance(error, RecursionError):
    where = user_code.place(error)
    return _fail(
      f"{where}{': ' if where else ''}nested too deeply to be read: a section"
      f" of the config, a file or a value ({one_line(error)})"
    )
  return None


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command line and returns its exit code.

  Returns:
    0 done; 2 an error the user can fix, one line on stderr;
    75 another process of the run was lost, all can be started again;
    130 (143) stopped by Ctrl-C (SIGTERM) after saving.
  """
  configure_logging()
  argv, code = sys.argv[1:] if argv is None else argv, 0
  try:
    startup.require_folder()
    flags = parse_flags(argv)
    if flags.help or not argv:
      startup.say(USAGE, sys.stdout)
    elif flags.dry_run and not flags.sweep:
      raise UserError("--dry-run goes with --sweep")
    elif flags.serve or flags.port:
      code = serve(flags)
    else:
      startup.require_settings()
      code = run_sweep(flags) if flags.sweep else run(flags)
  except (Exception, KeyboardInterrupt) as error:
    code = _code_of(error)
    if code is None:
      if processes.count() > 1:
        traceback.print_exc()
        processes.leave(1)
      raise
  if code and processes.count() > 1:
    processes.leave(code)
  return code


if __name__ == "__main__":
  startup.open_streams()
  startup.allow_warnings()
  collect_rarely()
  sys.exit(main())
