#!/usr/bin/env bash
# Makes an sdist, from that a wheel, and installs it into a fresh environment of
# the Python that is named, where README's commands run away from the clone.
set -euo pipefail
python=$(command -v "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$(dirname "$0")/.."
.venv/bin/python setup.py --quiet sdist --dist-dir "$work"
cd "$work"
"$python" -m venv env
PATH=$work/env/bin:$PATH
pip wheel --quiet --no-deps --wheel-dir . impala-*.tar.gz
pip install --quiet "$(echo impala-*.whl)[atari,doom,video,dev]"
pip check

quickstart='--flagfile=configs/quickstart.flags --total_environment_frames=2000'
impala $quickstart --logdir=run
impala --mode=test --logdir=run --test_num_episodes=2
python -m impala.report run
python -m impala.distributed.local_cluster --port=8571 \
  --actors=1 -- $quickstart --logdir=cluster

# The sdist's tests of what is compiled; where they lie is no `impala`.
tar -xf impala-*.tar.gz
(cd impala-*/ && pytest tests/ops_library_test.py \
  tests/environments/step_op_test.py)

# As if another TensorFlow had been installed since.
sed -i 's/compiled against TensorFlow /&9/' \
  env/lib/python*/site-packages/impala/environments/_ops.so
(impala 2>&1 || true) | grep 'pip install tensorflow==9'
