#!/usr/bin/env bash
# @name on engine @engine
set -euo pipefail
environment="${ENVIRONMENT:-@environment}" # where minicppo is installed; ENVIRONMENT=DIR for another
if ! command -v minicppo >/dev/null; then export PATH="$environment/bin:$PATH"; fi # of venv, conda, or any other
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
run="${RUN_DIR:-$here/run}" # a stopped run goes on from its newest checkpoint
export TOKENIZERS_PARALLELISM=false
if [[ -e "$run/config.yaml" ]]; then
  @start resume "$run"@plugins
else
  @start train "$here/config.yaml" --run-dir "$run"@plugins
fi
