#!/bin/bash
# A study on a Slurm cluster: each task of the array is one worker on one GPU.
#
#   sbatch --export=ALL,STUDY=studies/thesis/placement.yaml,OUT=/shared/runs/placement examples/clusters/slurm.sh
#
# STUDY and OUT are paths that every node sees; OUT is on a file system that passes locks on (docs/clusters.md).
#SBATCH --job-name=rango-study
#SBATCH --array=0-7
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --output=rango-%A_%a.out
# A preempted task comes back; one that runs out of time is told so two minutes before, and saves its state.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
set -euo pipefail
echo "worker $SLURM_ARRAY_TASK_ID of job $SLURM_ARRAY_JOB_ID on $(hostname)"
# In place of this shell, so that Slurm's signal reaches it.
exec rango study "${STUDY:?the study file}" --out "${OUT:?the folder of the study}" --bank off --quiet
