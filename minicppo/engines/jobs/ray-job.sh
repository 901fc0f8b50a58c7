#!/usr/bin/env bash
# @name as a Ray job: ./ray-job.sh
# The job runs on the cluster's head node; this folder travels with it, the package does not.
set -euo pipefail
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
address="${RAY_DASHBOARD:-http://127.0.0.1:8265}"
ray job submit --address "$address" --working-dir "$here" @resources-- \
  env RUN_DIR="${RUN_DIR:?set RUN_DIR to a folder that all nodes share}" \
  ${MINICPPO_DATA:+MINICPPO_DATA="$MINICPPO_DATA"} bash launch.sh
