# shellcheck shell=bash
# Shared by the scripts beside it: flags, checks, printing and running.
# A command line is --name=value words; what main understands (--config...,
# --workdir) is checked here and passed on as it stands.

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: bash 4.4 or newer is needed, this is $BASH_VERSION" >&2
  exit 2
fi
set -euo pipefail
shopt -s inherit_errexit

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
declare -A FLAGS=()  # --zone=x is FLAGS[zone]; a bare flag holds "yes"
MAIN=()              # words for `python -m jaxreward.main`
exec 3>&1            # where --dry-run prints, also from inside $(...)

# name, accelerator type of gcloud and xpk, hosts. v5p counts TensorCores.
readonly TOPOLOGIES="\
v5e:1x1 v5litepod-1 1
v5e:2x2 v5litepod-4 1
v5e:2x4 v5litepod-8 1
v5e:4x4 v5litepod-16 4
v5e:4x8 v5litepod-32 8
v5e:8x8 v5litepod-64 16
v5e:8x16 v5litepod-128 32
v5e:16x16 v5litepod-256 64
v6e:1x1 v6e-1 1
v6e:2x2 v6e-4 1
v6e:2x4 v6e-8 1
v6e:4x4 v6e-16 4
v6e:4x8 v6e-32 8
v6e:8x8 v6e-64 16
v6e:8x16 v6e-128 32
v6e:16x16 v6e-256 64
v5p:2x2x1 v5p-8 1
v5p:2x2x2 v5p-16 2
v5p:2x2x4 v5p-32 4
v5p:2x4x4 v5p-64 8
v5p:4x4x4 v5p-128 16
v5p:4x4x8 v5p-256 32
v5p:4x8x8 v5p-512 64
v5p:8x8x8 v5p-1024 128
v5p:8x8x16 v5p-2048 256
v5p:8x16x16 v5p-4096 512"

die() {  # CODE WORD...
  printf 'error: %s\n' "${*:2}" >&2
  exit "$1"
}

fail() {  # WORD...: something the user can mend
  die 2 "$@"
}

note() {
  if dry; then printf '# %s\n' "$1" >&3; else printf '%s\n' "$1" >&2; fi
}

dry() { [[ -n ${FLAGS[dry-run]-} ]]; }

quote() {  # the words as one line that a shell reads back as the same words
  local word single=\' escaped="'\\''" out=() plain='^[A-Za-z0-9_@%+=:,./-]+$'
  local flag='^(--[A-Za-z0-9_.-]+=)(.*)$'
  for word in "$@"; do
    if [[ $word =~ $plain ]]; then
      out+=("$word")
    elif [[ $word =~ $flag ]]; then
      word=${BASH_REMATCH[2]//"$single"/"$escaped"}
      out+=("${BASH_REMATCH[1]}'$word'")
    else
      out+=("'${word//"$single"/"$escaped"}'")
    fi
  done
  printf '%s\n' "${out[*]}"
}

execute() {  # prints with --dry-run, else runs; a failure ends the script
  local code=0
  if dry; then
    quote "$@" >&3
    return
  fi
  printf '+ %s\n' "$(quote "$@")" >&2
  "$@" || code=$?
  ((code == 0)) || die 1 "$1 failed with exit code $code: $(quote "$@")"
}

distance() {  # edits between two words
  local a=$1 b=$2 i j cost best row=() next=()
  for ((j = 0; j <= ${#b}; j++)); do row[j]=$j; done
  for ((i = 1; i <= ${#a}; i++)); do
    next=("$i")
    for ((j = 1; j <= ${#b}; j++)); do
      cost=1
      [[ ${a:i-1:1} != "${b:j-1:1}" ]] || cost=0
      best=$((row[j - 1] + cost))
      ((row[j] + 1 >= best)) || best=$((row[j] + 1))
      ((next[j - 1] + 1 >= best)) || best=$((next[j - 1] + 1))
      next[j]=$best
    done
    row=("${next[@]}")
  done
  echo "${row[${#b}]}"
}

nearest() {  # WORD CANDIDATE...: the closest candidate
  local word=$1 best='' least=999 candidate d
  shift
  for candidate in "$@"; do
    d=$(distance "$word" "$candidate")
    ((d >= least)) || { least=$d best=$candidate; }
  done
  echo "$best"
}

parse_flags() {  # "valued names" "bare names" WORD...
  local valued=" ${1//$'\n'/ } " bare=" $2 help dry-run " word name
  shift 2
  for word in "$@"; do
    [[ $word == --* ]] \
      || fail "unexpected \"$word\"; flags look like --name=value"
    name=${word#--}
    name=${name%%=*}
    case $word in
      --config=* | --workdir=*)
        FLAGS[$name]=${word#*=}
        MAIN+=("$word")
        ;;
      --config.*=*) MAIN+=("$word") ;;
      *=*)
        [[ $valued == *" $name "* ]] || unknown_flag "$name" "$valued$bare"
        [[ -n ${word#*=} ]] || fail "--$name needs a value, as in --$name=..."
        FLAGS[$name]=${word#*=}
        ;;
      *)
        [[ " config workdir $valued" != *" $name "* ]] \
          || fail "--$name needs a value, as in --$name=..."
        [[ $bare == *" $name "* ]] || unknown_flag "$name" "$valued$bare"
        FLAGS[$name]=yes
        ;;
    esac
  done
}

unknown_flag() {
  local known
  read -ra known <<<"config workdir $2"
  fail "unknown flag --$1 (did you mean \"--$(nearest "$1" "${known[@]}")\"?)"
}

read_command_line() {  # "verbs" "valued" "bare" WORD...; sets VERB
  local verbs=$1 known
  shift
  if (($# < 3)) || [[ " ${*:3} " == *" --help "* || $3 == -h ]]; then
    usage
    exit 0
  fi
  VERB=$3
  if [[ " $verbs " != *" $VERB "* ]]; then
    read -ra known <<<"$verbs"
    fail "unknown verb \"$VERB\" (did you mean" \
      "\"$(nearest "$VERB" "${known[@]}")\"?)"
  fi
  parse_flags "$1" "$2" "${@:4}"
}

need() {  # FLAG EXAMPLE
  [[ -n ${FLAGS[$1]-} ]] || fail "--$1 is missing, as in --$1=$2"
}

need_name() {
  local pattern='^[a-z]([-a-z0-9]{0,37}[a-z0-9])?$'
  need name my-run
  [[ ${FLAGS[name]} =~ $pattern ]] \
    || fail "--name=${FLAGS[name]}: up to 39 small letters, digits and dashes"
}

need_zone() {
  local pattern='^[a-z]+-[a-z]+[0-9]+-[a-z]$'
  need zone us-east5-b
  [[ ${FLAGS[zone]} =~ $pattern ]] \
    || fail "--zone=${FLAGS[zone]}: a zone looks like us-east5-b"
}

need_number() {  # FLAG...: those given are whole numbers, 1 or more
  local flag
  for flag in "$@"; do
    [[ ${FLAGS[$flag]-1} =~ ^[1-9][0-9]*$ ]] \
      || fail "--$flag=${FLAGS[$flag]}: give a whole number, 1 or more"
  done
}

need_topology() {  # sets TOPOLOGY, ACCELERATOR and HOSTS
  local name accelerator hosts known=()
  need topology v5e:4x4
  while read -r name accelerator hosts; do
    known+=("$name" "$accelerator")
    if [[ " $name $accelerator " == *" ${FLAGS[topology]} "* ]]; then
      # shellcheck disable=SC2034  # read by the scripts that source this file
      TOPOLOGY=$name ACCELERATOR=$accelerator HOSTS=$hosts
      return
    fi
  done <<<"$TOPOLOGIES"
  fail "--topology=${FLAGS[topology]}: no such topology (did you mean" \
    "\"$(nearest "${FLAGS[topology]}" "${known[@]}")\"?)"
}

need_main_flags() {  # HOSTS WHO: config and workdir, fit for so many hosts
  local hosts=$1 who=$2 file bucket='^gs://[a-z0-9][a-z0-9._-]+/[^/]'
  need config configs/align_scenes.py
  need workdir gs://my-bucket/my-run
  file=${FLAGS[config]%%:*}
  if [[ $file == /* || ! -f $ROOT/$file ]]; then
    local known=("$ROOT"/configs/*.py)
    fail "--config=${FLAGS[config]}: no such file under $ROOT (did you mean" \
      "\"$(nearest "$file" "${known[@]#"$ROOT"/}")\"?)"
  fi
  if [[ ${FLAGS[workdir]} == *:* && ! ${FLAGS[workdir]} =~ $bucket ]]; then
    fail "--workdir=${FLAGS[workdir]}: a bucket looks like" \
      "gs://my-bucket/my-run"
  fi
  if ((hosts > 1)) && [[ ${FLAGS[workdir]} != gs://* \
    && ${FLAGS[workdir]} != /* ]]; then
    fail "--workdir=${FLAGS[workdir]}: the $who must share it; give a" \
      "bucket, as in --workdir=gs://my-bucket/my-run, or a folder that is" \
      "mounted on all"
  fi
  find_each_other "$hosts"
}

find_each_other() {  # HOSTS: each process asks the cluster for the others
  (($1 < 2)) || [[ " ${MAIN[*]} " == *" --config.processes."* ]] \
    || MAIN+=(--config.processes.detect=true)
}

pack() {  # ARCHIVE: what a host needs to install and run the checkout
  local file include=() parts=(pyproject.toml README.md LICENSE)
  parts+=(jaxreward configs tpu_scripts)
  [[ ! -d $ROOT/pallas_kernels ]] || parts+=(pallas_kernels)
  IFS=, read -ra include <<<"${FLAGS[include]-}"
  for file in "${include[@]}"; do
    [[ $file != /* && -e $ROOT/$file ]] \
      || fail "--include=$file: no such file under $ROOT"
    parts+=("$file")
  done
  execute tar --create --gzip --file="$1" --exclude=__pycache__ \
    --directory="$ROOT" "${parts[@]}"
}
