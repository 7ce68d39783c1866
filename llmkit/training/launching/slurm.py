"""A batch script for Slurm: srun starts torchrun on each machine; stopped by time or preemption, it is queued anew."""

from __future__ import annotations

from llmkit.models import layout
from llmkit.training.launching import shell
from llmkit.training.launching.wanted import Wanted


def write(wanted: Wanted) -> str:
    """The script, for `sbatch FILE` in the folder from which the recipe's paths are seen."""
    shell.refuse(wanted, "Slurm", "image", "claim")
    torchrun = shell.torchrun(
        wanted, '--nnodes="$SLURM_NNODES"', f"--nproc-per-node={wanted.processes}", "--rdzv-backend=c10d",
        '--rdzv-id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"', f'--rdzv-endpoint="$head:{shell.PORT}"')
    lines = [
        "#!/bin/bash",
        f"# {wanted.about}",
        "# Start it with `sbatch FILE`, in the folder from which the recipe's paths are seen.",
        *_directives(wanted),
        "",
        *shell.settings(wanted),
        "# What is tokenized is kept in LLMKIT_CACHE: on a disk of each machine, each does it once; on one that all",
        "# see, one does it and the others wait, where that disk has locks. Without a network: export HF_HUB_OFFLINE=1",
        '# export LLMKIT_CACHE="$SLURM_TMPDIR/llmkit"',
        shell.NETWORKS,
        "",
        'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        f'rm -f "$run/{layout.STATUS}"  # of an earlier start',
        *shell.waiting(f"srun --kill-on-bad-exit=1 {torchrun}", 'scancel --signal=TERM "$SLURM_JOB_ID"'),
        "",
        'if [ "$code" = 75 ]; then  # stopped after a checkpoint: the same job goes on from there',
        '    scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        'exit "${code:-$ended}"']
    return "\n".join(lines) + "\n"


def _directives(wanted: Wanted) -> list[str]:
    """What sbatch reads. B: the signal comes to this script alone, which passes it on."""
    said = {"job-name": wanted.job, "nodes": wanted.nodes, "ntasks-per-node": 1,
            "gpus-per-node": wanted.gpus or None, "cpus-per-task": wanted.cpus, "time": wanted.time,
            "account": wanted.account, "partition": wanted.partition, "signal": f"B:TERM@{wanted.grace}",
            "open-mode": "append", "output": "%x-%j.log"}
    return [*(f"#SBATCH --{name}={value}" for name, value in said.items() if value is not None), "#SBATCH --requeue"]
