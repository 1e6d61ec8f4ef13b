# Sourced by the other scripts: makes or reuses .venv in the checkout, with this package and its test tools.
# Leaves the checkout in $root and the venv's python in $python.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VQONNX_VENV:-$root/.venv}

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "Python 3.11 or newer is needed; set PYTHON to name one." >&2
  return 1
}

quietly() { # runs a command and shows what it said only if it fails
  local log
  log=$(mktemp)
  if ! "$@" >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    return 1
  fi
  rm -f "$log"
}

venv_python() { # venv_python FOLDER: its interpreter, on Windows too
  if [ -d "$1/Scripts" ]; then echo "$1/Scripts/python.exe"; else echo "$1/bin/python"; fi
}

make_venv() { # make_venv FOLDER WHAT...: a fresh venv with these pip arguments installed
  local folder=$1 base
  shift
  base=$(find_python)
  rm -rf "$folder"
  quietly "$base" -m venv "$folder"
  quietly "$(venv_python "$folder")" -m pip install -q --disable-pip-version-check "$@"
}

stamp() { (cd "$root" && pwd && cat pyproject.toml) | cksum; }

if [ ! -x "$(venv_python "$venv")" ] || [ "$(cat "$venv/.stamp" 2>/dev/null)" != "$(stamp)" ]; then
  echo "Setting up $venv ..." >&2
  make_venv "$venv" -e "$root[cpu,test]"
  stamp >"$venv/.stamp" # only now: an interrupted set-up is made again
fi
python=$(venv_python "$venv")
