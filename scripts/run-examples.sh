#!/usr/bin/env bash
# Run the examples one after the other; names as arguments run those alone.
set -euo pipefail
cd "$(dirname "$0")/.."
python=python3
[[ -x .venv/bin/python ]] && python=.venv/bin/python
names=("$@")
((${#names[@]})) || names=(basic_cluster kv_operations multi_node_cluster)
for name in "${names[@]}"; do
  echo "Running $name..."
  "$python" "examples/$name.py" || exit 1
done
