#!/bin/sh
# Makes .venv and installs into it what Trimaran needs; does nothing if that has been done. Called by `make setup`,
# which passes PYTHON, TORCH, TENSORFLOW, EXTRAS and PIP_OPTIONS, and in GIVEN the names of those that are no defaults.
set -euf

stop() {
    echo "make setup: $1" >&2
    exit 2
}

# 1. A Python that is new enough and can make virtual environments.
command -v "$PYTHON" >/dev/null ||
    stop "found no $PYTHON; install Python 3.11 or later (apt-get install python3 python3-venv)"
version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    stop "found $PYTHON $version, expected 3.11 or later; name a newer one: make setup PYTHON=python3.12"
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
    stop "$PYTHON cannot make virtual environments; apt-get install python$version-venv"

# 2. Nothing to do if the last installation was of the same packages, from the same files, into this directory.
stamp=.venv/installed
wanted=$(
    {
        echo "$PWD" "$version" "$TORCH" "$TENSORFLOW" "$EXTRAS" "$PIP_OPTIONS"
        cat setup.cfg pyproject.toml tools/setup.sh
    } | "$PYTHON" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

# 3. Install. One pip command for everything: were the frameworks left to a later one, whatever depends on them
# might fetch other builds first.
echo "make setup: installing into .venv (some minutes the first time)"
.venv/bin/python -c "import pip, sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" 2>/dev/null ||
    "$PYTHON" -m venv --clear .venv
rm -f "$stamp"
# Word splitting is meant: an empty TORCH or TENSORFLOW is no argument, and PIP_OPTIONS holds several.
# shellcheck disable=SC2086
.venv/bin/python -m pip install --quiet $PIP_OPTIONS $TORCH $TENSORFLOW --editable ".[$EXTRAS]"

# 4. Remember it, with what was given, for the next make.
for name in $GIVEN; do
    eval "echo \"$name ?= \$$name\""
done >.venv/given.mk
echo "$wanted" >"$stamp"
