#!/usr/bin/env bash
# Installs into .venv, then checks format, lint and types and runs the tests in two processes.
# Arguments go to pytest: `bash scripts/test.sh -m slow` runs the long tests (docs/testing.md).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/scripts/setup.sh"
cd "$root"
bin=${VENV:-$root/.venv}/bin
"$bin/ruff" format --check --quiet .
"$bin/ruff" check --quiet .
"$bin/mypy" --no-error-summary
exec "$bin/python" -m pytest --numprocesses 2 --dist worksteal "$@"
