#!/usr/bin/env bash
# Installs a release for production: `deploy/install.sh /opt/recoup/releases/1.0.0`. The checkout is only read.
# The Dockerfile and `make install` call it too. PYTHON=python3.12 chooses another Python; 3.11 is the least.
set -euo pipefail

release=${1:?"Give the folder of the release, for example: deploy/install.sh /opt/recoup/releases/1.0.0"}
source=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}

if [ -e "$release" ]; then
  echo "$release exists. A release is never changed: choose another folder, or remove it." >&2
  exit 1
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "Python 3.11 or later is needed, and $python was not found or is older." >&2
  exit 1
}

# A release that is not whole never has its name.
part="$release.part"
rm -rf "$part"
trap 'rm -rf "$part"' EXIT
mkdir -p "$part"
for name in accounts core demo deploy recoup requirements tasks gunicorn.conf.py manage.py; do
  cp -R "$source/$name" "$part/$name"
done
# Also from a checkout that nobody may write to.
chmod -R u+w "$part"
find "$part" -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment keeps the paths that it was made with, so it is made at its final place.
mv "$part" "$release"
trap 'rm -rf "$release"' EXIT
"$python" -m venv "$release/.venv"
"$release/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes \
  --only-binary :all: -r "$release/requirements/runtime.lock"
"$release/.venv/bin/python" -m compileall -q "$release" -x '/\.venv/'
trap - EXIT
echo "Installed in $release."
