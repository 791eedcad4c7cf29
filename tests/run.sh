#!/usr/bin/env bash
# Runs every test and counts what was skipped for want of something on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p target
log=target/test.log
status=0
cargo test --workspace -- --show-output >"$log" 2>&1 || status=$?
# The tests' own lines, without the output of those that passed.
grep -E '^(test |test result|running |     Running|   Doc-tests|error|warning|failures:|---- |thread )' "$log" || true
if [ "$status" -ne 0 ]; then
    sed -n '/^failures:/,$p' "$log" | head -n 200
    tail -n 40 "$log"
fi
echo
grep -h '^skipped: ' "$log" | sort -u || true
echo "tests skipped: $(grep -c '^skipped: ' "$log" || true)"
exit "$status"
