#!/bin/sh
# frames.sh VERSION PROBE: check_frames.py in an installed Python of that version ("3.11"), without any package.
#
# Found by name, or where pyenv keeps its versions.
folder=$(dirname "$0")
for python in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python3; do
	if command -v "$python" >/dev/null && [ "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$1" ]; then
		exec "$python" "$folder/check_frames.py" "$2"
	fi
done
echo "skipped: no Python $1"
exit 77
