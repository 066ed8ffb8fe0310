#!/usr/bin/env bash
# GPTQ of one layer of the 4B model, of which aq-calib solve makes as many as there are: share of the floor that factors and the
# products of codes have at the speed of the BLAS's dgemm (aim: 0.5 on two cores), and the same for the moments. TOKENS: of the
# moments (2048), THREADS: 2. Two minutes and 3 GB.
set -euo pipefail
cd "$(dirname "$0")/../.."
"${O:-build}/bench/solve" "${TOKENS:-2048}" "${THREADS:-2}"
