# Sourced by the other scripts: makes sure that the package is installed in a virtual environment.
# Uses the active one, else makes .venv in the checkout with $PYTHON, or the first Python 3.10 to 3.13 that is found.
# shellcheck shell=bash

# prepare_environment ROOT [EXTRA]: installs ROOT with the optional EXTRA, with the versions of constraints.txt.
prepare_environment() {
  local root=$1 extra=${2:-} requirement stamp
  if [[ -z ${VIRTUAL_ENV:-} ]]; then
    if [[ ! -x $root/.venv/bin/python ]]; then
      local python
      python=$(find_python) || return
      echo "Making a virtual environment in $root/.venv with $("$python" --version)"
      "$python" -m venv "$root/.venv"
    fi
    # shellcheck source=/dev/null
    source "$root/.venv/bin/activate"
  elif ! is_supported python; then
    echo "error: the active virtual environment has $(python --version 2>&1); use Python 3.10 to 3.13" >&2
    return 2
  fi
  requirement=$root${extra:+[$extra]}
  # What is installed is recorded, so that the next call takes no time.
  stamp=$VIRTUAL_ENV/.electra-pretrain${extra:+-$extra}.installed
  if [[ ! -f $stamp ]] || ! cksum "$root/setup.py" "$root/constraints.txt" | cmp -s - "$stamp"; then
    echo "Installing packages into $VIRTUAL_ENV (some minutes the first time)"
    # Python compiles what is imported, which is a fifth of these packages' modules.
    python -m pip install --quiet --disable-pip-version-check --no-compile --use-pep517 \
      --constraint "$root/constraints.txt" --editable "$requirement"
    cksum "$root/setup.py" "$root/constraints.txt" >"$stamp"
  fi
}

# is_supported COMMAND: whether it runs a Python that TensorFlow 2.20 and its libraries support.
is_supported() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
    if is_supported "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "error: no Python 3.10 to 3.13 was found; install one, or name it: PYTHON=/path/to/python3.11 $0" >&2
  return 2
}
