#!/usr/bin/env bash
# A training as one Slurm job. docs/cluster.md. Flags of experiment.py follow:
#
#   sbatch deploy/slurm.sh --flagfile=configs/dmlab30.flags --logdir=DIR
#
# What a cluster calls its partitions and accounts goes there, too, before the
# file's name, and so does whatever is to differ from these:
#SBATCH --job-name=impala
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=9
#SBATCH --cpus-per-task=4
#SBATCH --mem-per-cpu=1G
# Each node gives as many as there are learners: Slurm fills the first node with
# tasks, learners first, before it comes to the next.
#SBATCH --gpus-per-node=1
#SBATCH --time=1-00:00:00
# Two minutes before the time is over, this script is told, and nobody else.
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

export LEARNERS=${LEARNERS:-1}

# One task: a learner with a GPU of its own, or an actor without any.
# shellcheck disable=SC2329 # bash -c calls it.
task() {
  local gpus=()
  if ((SLURM_PROCID < LEARNERS)); then
    IFS=, read -ra gpus <<< "${CUDA_VISIBLE_DEVICES:-}"
  fi
  # Actors wait for learners for ever. All learners end with the first; a little
  # later, so do the actors.
  if ((SLURM_PROCID == 0)); then
    (
      while kill -0 $$ 2> /dev/null; do sleep 5; done
      sleep 20
      scancel --signal=TERM "$SLURM_JOB_ID.$SLURM_STEP_ID"
    ) &
  fi
  export CUDA_VISIBLE_DEVICES=${gpus[SLURM_LOCALID]:-}
  exec "$@"
}
export -f task

# Learners save and all tasks end well; then the job waits for its next turn.
# While the job is being cancelled, scancel fails, and so does this script.
stopped=0
trap 'stopped=1; scancel --signal=TERM "$SLURM_JOB_ID.0"' TERM

# An actor that is lost ends nothing. --insecure: the cluster's network is
# trusted; otherwise --tls_authority, --tls_certificate and --tls_key.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 --wait=0 \
  bash -c 'task "$@"' task \
  .venv/bin/python experiment.py --num_learners="$LEARNERS" --num_envs=8 \
  --inference_threads="$SLURM_CPUS_PER_TASK" --insecure "$@" &
step=$!
status=0
wait "$step" || status=$?
if ((stopped)); then
  wait "$step" || true # The signal had ended the other wait.
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
