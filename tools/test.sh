#!/usr/bin/env bash
# Runs the fast test suite; further arguments go to pytest, as in: bash tools/test.sh -k digits
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"

cd "$root"
exec "$python" -m pytest -q -n 2 -m "not slow" "$@"
