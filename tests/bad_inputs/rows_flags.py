"""The command line itself."""

from tests.bad_inputs.table import Row

ROWS = [
  Row("unknown flag", ("--configs", "--config"), options=("--configs=x",)),
  Row("no value", ("--sweep needs a value",), options=("--sweep",)),
  Row("word of its own", ('unexpected "now"',), options=("now",)),
]
