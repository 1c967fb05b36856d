#!/bin/bash
# usage: no_driver_imports.sh LIBRARY    Fail when LIBRARY imports a function of the CUDA driver.
imported=$(nm -D --undefined-only "$1" | awk '$1 == "U" && $2 ~ /^cu[A-Z]/ { print $2 }')
[[ -z $imported ]] && exit 0
echo "$(basename "$1") imports from the driver, which an interposer would see: $imported" >&2
exit 1
