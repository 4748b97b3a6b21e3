#!/usr/bin/env bash
# Installs into .venv and builds the site into build/site; a broken link or reference ends it.
# Arguments go to mkdocs: `bash scripts/docs.sh serve` shows the site while its pages are written.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/scripts/setup.sh"
cd "$root"
if [ $# -eq 0 ]; then
  set -- build --strict # with --quiet it would count no warnings
fi
exec "${VENV:-$root/.venv}/bin/mkdocs" "$@"
