#!/usr/bin/env bash
# Refreshes requirements.lock from pyproject.toml: exact versions with hashes, for Python 3.11 to 3.13
# on every platform, without any index address. Run it after a change of dependencies.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"${PYTHON:-python3}" -m venv "$tools"
"$tools/bin/python" -m pip install --quiet uv
"$tools/bin/uv" pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
  --generate-hashes --no-annotate --upgrade --quiet \
  --custom-compile-command "bash scripts/lock.sh" --output-file requirements.lock
echo "wrote requirements.lock"
