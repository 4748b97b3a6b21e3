#!/usr/bin/env bash
# Installs into .venv and trains MobileNet on the embedded digits data set: no download, no GPU needed.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/scripts/setup.sh"
cd "$root"
exec "${VENV:-$root/.venv}/bin/jaxcnn" train --config mobilenet:digits
