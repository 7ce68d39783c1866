"""Plain torchrun: a line for one machine, or a script that is started on each of several."""

from __future__ import annotations

from llmkit.training.launching import shell
from llmkit.training.launching.wanted import Wanted


def write(wanted: Wanted) -> str:
    """The script; of several machines each gets the name of the first one as its argument."""
    shell.refuse(wanted, "torchrun", "time", "account", "partition", "image", "claim")
    one = wanted.nodes == 1  # machine
    where = ["--standalone"] if one else [
        f"--nnodes={wanted.nodes}", "--rdzv-backend=c10d", f"--rdzv-id={wanted.job}",
        f'--rdzv-endpoint="$head:{shell.PORT}"']
    torchrun = shell.torchrun(wanted, *where, f"--nproc-per-node={wanted.processes}")
    how = "`bash FILE`" if one else "On each of them, at about one time: `bash FILE NAME-OF-THE-FIRST`"
    lines = [
        "#!/bin/bash",
        f"# {wanted.about}",
        f"# {how}, in the folder from which the recipe's paths are seen.",
        "# It ends with the run's own status: 75 where a signal stopped it after a checkpoint; start it anew to go on.",
        "",
        *([] if one else ['head=${1:?the name or address of the first machine}']),
        *shell.settings(wanted),
        *([] if one else [shell.NETWORKS]),
        "",
        'mkdir -p "$run" && started=$(mktemp "$run/.started-XXXXXX")',
        *shell.waiting(torchrun, 'kill -TERM "$step"'),
        *shell.of_this_start(),
        'exit "${code:-$ended}"']
    return "\n".join(lines) + "\n"
