#!/bin/sh
# Installs reranker-tuner from the parts beside this file, without a network.
#     sh install.sh FOLDER          PYTHON=python3.12 names another Python
# FOLDER gets venv/ and project/; base models go to the caches where they are looked for.
set -eu
target=${1:?"say where to: sh install.sh FOLDER"}
python=${PYTHON:-python3}
cd -- "$(dirname -- "$0")"
. ./kit.env

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ "$version" != "$kit_python" ]; then
    echo "this kit is for Python $kit_python; $python is $version. Name another one: PYTHON=python$kit_python sh install.sh FOLDER" >&2
    exit 2
fi
sha256sum --quiet --check SHA256SUMS || { echo "a part is missing or damaged: copy it again" >&2; exit 1; }

mkdir -p -- "$target"
target=$(cd -- "$target" && pwd)
echo "unpacking into $target …"
cat kit.tar.* | tar -x -f - -C "$target"
cache=${RERANKER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/reranker-tuner}
hub=${HF_HUB_CACHE:-${HF_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/huggingface}/hub}
[ ! -d "$target/models" ] || { mkdir -p "$cache/models" && cp -R "$target/models/." "$cache/models/"; }
[ ! -d "$target/hub" ] || { mkdir -p "$hub" && cp -R "$target/hub/." "$hub/"; }

echo "installing …"
if [ "$kit_builds_on_the_machine" = yes ]; then site=--system-site-packages; else site=; fi
"$python" -m venv $site "$target/venv"
"$target/venv/bin/python" -m pip --disable-pip-version-check --quiet install --no-index --no-deps --no-cache-dir \
    "$target"/wheels/*.whl
rm -rf -- "$target/wheels" "$target/models" "$target/hub"
"$target/venv/bin/reranker-tuner" --version
echo "ready: $target/venv/bin/reranker-tuner --help; whether the machine is fit: $target/venv/bin/reranker-tuner doctor"
