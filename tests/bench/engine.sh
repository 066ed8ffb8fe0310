#!/usr/bin/env bash
# Linear layers, the grid of treatments and threads, against the BLAS in the same process.
set -euo pipefail
"$O/bench/engine"
