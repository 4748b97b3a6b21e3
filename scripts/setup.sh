#!/usr/bin/env bash
# Makes the virtual environment .venv with what requirements.lock names and the project itself.
# Does nothing if that is in place already. PYTHON chooses the interpreter, VENV the folder.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
venv=${VENV:-$root/.venv}

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || {
  echo "error: $python does not run: install Python 3.11, or name an interpreter with PYTHON=..." >&2
  exit 1
}
case "$version" in
  3.11 | 3.12 | 3.13) ;;
  *)
    echo "error: $python is Python $version; 3.11 to 3.13 can be used: name one with PYTHON=..." >&2
    exit 1
    ;;
esac

# The stamp is written last, so an installation that was cut short is begun again.
wanted=$(cat "$root/requirements.lock" "$root/pyproject.toml" | sha256sum)
wanted="$version $root ${wanted%% *}"
if [ "$(cat "$venv/installed" 2>/dev/null)" = "$wanted" ]; then
  exit 0
fi
echo "installing into $venv (a minute or two) ..." >&2
"$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --require-hashes -r "$root/requirements.lock"
"$venv/bin/python" -m pip install --quiet --no-deps --no-build-isolation -e "$root"
printf '%s' "$wanted" > "$venv/installed"
