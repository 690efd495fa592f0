#!/usr/bin/env bash
# A sweep, every entry on machines of its own.
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
sweep.sh PLACE VERB --sweep=FILE.py --config=FILE --workdir=DIR --name=NAME ...

PLACE is queued_resource, gke_xpk or slurm: entry i of the sweep's get_sweep()
becomes the run NAME-i in DIR/i, with the flags of PLACE.sh. Verbs:
  run      submits every entry; those that are there already are left alone,
           so that a launch that broke off is repeated with the same command
  watch    one look at every entry
  resume, stop, delete, ...  that verb of PLACE.sh for every entry

  --sweep=FILE.py          as in python -m jaxreward.main --sweep
  --python=FILE            with jaxreward installed; .venv/bin/python
  --dry-run                prints the commands, runs nothing
END
}

entries() {  # the words of every entry's command, one command per line
  local python=$ROOT/.venv/bin/python
  [[ -x $python ]] || python=python3
  (cd "$ROOT" && "${FLAGS[python]-$python}" -m jaxreward.main "${MAIN[@]}" \
    --sweep="${FLAGS[sweep]}" --dry-run) \
    || die 1 "--sweep=${FLAGS[sweep]} has not been unfolded, see above"
}

entry() {  # VERB: for entry I with the words WORDS
  note "entry $I: ${FLAGS[name]}-$I"
  "$ROOT/tpu_scripts/$PLACE.sh" "$1" --name="${FLAGS[name]}-$I" \
    "${OWN[@]}" "${WORDS[@]}" "${@:2}" \
    || die 1 "entry $I (${FLAGS[name]}-$I) has failed; the same command" \
      "leaves those alone that are there"
}

each() {  # VERB FLAG...
  for I in "${!LINES_OF[@]}"; do
    mapfile -t WORDS < <(xargs printf '%s\n' <<<"${LINES_OF[I]}")
    WORDS=("${WORDS[@]:3}")  # without python -m jaxreward.main
    entry "$@"
  done
}

split() {  # which words are for PLACE.sh as they stand
  local word
  for word in "$@"; do
    case $word in
      --sweep=* | --name=* | --config=* | --config.* | --workdir=*)
        MINE+=("$word")
        ;;
      --python=*)
        MINE+=("$word")
        [[ $PLACE != slurm ]] || OWN+=("$word")
        ;;
      *) OWN+=("$word") ;;
    esac
  done
}

PLACES="queued_resource gke_xpk slurm"
OWN=() MINE=()
if (($# < 2)) || [[ " $* " == *" --help "* ]]; then
  usage
  exit 0
fi
PLACE=$1 VERB=$2
if [[ " $PLACES " != *" $PLACE "* ]]; then
  read -ra known <<<"$PLACES"
  fail "unknown place \"$PLACE\" (did you mean" \
    "\"$(nearest "$PLACE" "${known[@]}")\"?)"
fi
split "${@:3}"
parse_flags "sweep name python" "" "${MINE[@]}"
[[ " ${OWN[*]-} " != *" --dry-run "* ]] || FLAGS["dry-run"]=yes
need sweep configs/sweeps/seeds.py
need name my-sweep
need config configs/align_scenes.py
need workdir gs://my-bucket/my-sweep
lines=$(entries)
[[ -n $lines ]] || fail "--sweep=${FLAGS[sweep]} has no entries"
mapfile -t LINES_OF <<<"$lines"
case $PLACE-$VERB in
  queued_resource-run)
    each create  # all wait in the queue at once
    each run
    ;;
  *-run) each resume ;;
  *-watch) each watch --once ;;
  *) each "$VERB" ;;
esac
