#!/bin/sh
# build.sh FOLDER [COMPILER FLAGS...]: puts the stub libnvidia-ml.so.1 into FOLDER, for use by LD_LIBRARY_PATH.
set -eu
folder=$1
shift
exec "${CC:-gcc}" -std=c11 -O1 -Wall -Wextra -Werror -shared -fPIC -Wl,-soname,libnvidia-ml.so.1 "$@" \
  -o "$folder/libnvidia-ml.so.1" "$(dirname "$0")/nvml.c"
