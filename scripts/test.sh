#!/usr/bin/env bash
# Sets everything up and runs all tests, with coverage of the package.
#
# usage: scripts/test.sh [ARGUMENTS OF pytest ...]      scripts/test.sh -m "not slow"   leaves out the slow ones
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/environment.sh
source "$root/scripts/environment.sh"
prepare_environment "$root" test

cd "$root"
coverage=(--cov --cov-report=term)
if [[ $# -gt 0 ]]; then
  coverage=() # of a part of the tests it would mean little
fi
# Neighbours stay in one process, where they share what is slow to make, until another process has nothing to do.
exec python -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal --durations=10 "${coverage[@]}" "$@"
