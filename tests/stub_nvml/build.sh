#!/bin/sh
# build.sh FOLDER [SYMBOL...]: puts the stub libnvidia-ml.so.1 into FOLDER, for use by LD_LIBRARY_PATH, without these
# functions: a driver that is older than the call.
set -eu
folder=$1
here=$(dirname "$0")
shift
{
  echo '{ global: nvml*; local:'
  for symbol in "$@"; do echo "  $symbol;"; done
  echo '  *; };'
} >"$folder/exported"
exec "${CC:-gcc}" -std=gnu11 -O1 -Wall -Wextra -Werror -shared -fPIC -pthread -Wl,-soname,libnvidia-ml.so.1 \
  "-Wl,--version-script=$folder/exported" -o "$folder/libnvidia-ml.so.1" \
  "$here/scenario.c" "$here/nvml.c" "$here/events.c" "$here/getters.c"
