#!/usr/bin/env bash
# Train with several processes on this machine, or on several machines.
#   tools/dist_train.sh CONFIG PROCESSES [options of train.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail
if [ $# -lt 2 ]; then sed -n '3,4s/^# *//p' "$0" >&2; exit 2; fi
config=$1 processes=$2
if [ "${NNODES:-1}" = 1 ] && [ -z "${PORT:-}" ]; then
    where=(--standalone) # any free port
else
    where=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}"
        --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}")
fi
exec python "$(dirname "$0")/launch.py" "${where[@]}" --nproc_per_node="$processes" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "${@:3}"
