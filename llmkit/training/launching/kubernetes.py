"""A PyTorchJob for Kubeflow's training operator: a pod a machine, torchrun in each, one volume that all share."""

from __future__ import annotations

from typing import Any

import yaml

from llmkit.system.errors import RequestError
from llmkit.training.launching import shell
from llmkit.training.launching.wanted import Wanted

WORK = "/work"
"""Where the shared volume stands in each pod; recipe, data and runs are named from there."""
GPU = "nvidia.com/gpu"


class BlockDumper(yaml.SafeDumper):
    """Writes a text of several lines as a block."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """`|` for a script."""
        return self.represent_scalar("tag:yaml.org,2002:str", data, "|" if "\n" in data else None)


BlockDumper.add_representer(str, BlockDumper.represent_str)


def write(wanted: Wanted) -> str:
    """The manifest, for `kubectl apply -f FILE`; RequestError where image or volume aren't named."""
    shell.refuse(wanted, "Kubernetes", "account", "partition")
    if wanted.image is None:
        raise RequestError("--image: name the container image that has llmkit and torch in it.")
    if wanted.claim is None:
        raise RequestError("--claim: name the PersistentVolumeClaim that all pods share (ReadWriteMany); recipe, data "
                           f"and runs lie there, and it stands at {WORK}.")
    about = (f"# {wanted.about}: a PyTorchJob of Kubeflow's training operator. kubectl apply -f FILE\n"
             f"# The volume {wanted.claim} stands at {WORK}; paths of recipe and data are seen from there.\n")
    text: str = yaml.dump(_job(wanted), Dumper=BlockDumper, sort_keys=False, allow_unicode=True, width=120)
    return about + text


def _job(wanted: Wanted) -> dict[str, Any]:
    """The job. A pod that ends with 143 is started anew, by `ExitCode`; with any other number, the job has failed."""
    policy: dict[str, Any] = {"cleanPodPolicy": "None", "backoffLimit": wanted.restarts}
    if wanted.seconds is not None:
        policy["activeDeadlineSeconds"] = wanted.seconds
    template = {"spec": {
        "terminationGracePeriodSeconds": wanted.grace, "containers": [_container(wanted)],
        "volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": wanted.claim}},
                    {"name": "shm", "emptyDir": {"medium": "Memory"}}]}}
    return {
        "apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": wanted.job},
        "spec": {
            "nprocPerNode": str(wanted.processes), "runPolicy": policy,
            "elasticPolicy": {"rdzvBackend": "c10d", "minReplicas": wanted.nodes, "maxReplicas": wanted.nodes,
                              "maxRestarts": wanted.restarts},
            "pytorchReplicaSpecs": {"Worker": {
                "replicas": wanted.nodes, "restartPolicy": "ExitCode", "template": template}}}}


def _container(wanted: Wanted) -> dict[str, Any]:
    """The operator looks for a container that is called pytorch."""
    asked = {name: str(value) for name, value in ((GPU, wanted.gpus), ("cpu", wanted.cpus)) if value}
    made: dict[str, Any] = {
        "name": "pytorch", "image": wanted.image, "workingDir": WORK, "command": ["bash", "-c", _script(wanted)],
        "env": [{"name": "LLMKIT_CACHE", "value": f"{WORK}/.cache/llmkit"},
                {"name": "HF_HOME", "value": f"{WORK}/.cache/huggingface"}],
        "volumeMounts": [{"name": "work", "mountPath": WORK}, {"name": "shm", "mountPath": "/dev/shm"}]}
    return {**made, "resources": {"limits": asked}} if asked else made


def _script(wanted: Wanted) -> str:
    """What a pod does. The operator says by PET_ variables how many machines there are and where they meet."""
    return "\n".join([
        *shell.settings(wanted),
        'mkdir -p "$run" && started=$(mktemp "$run/.started-XXXXXX")',
        *shell.waiting(shell.torchrun(wanted), 'kill -TERM "$step"'),
        *shell.of_this_start(),
        "# the operator starts a pod anew that ends with 128 or more: one that was stopped after a checkpoint (75), or",
        "# killed before it could say anything; a mistake in the request or the data is none that a new start mends",
        'if [ "$code" = 75 ]; then exit 143; fi',
        'if [ -z "$code" ] && [ "$ended" != 0 ]; then exit 137; fi',
        'exit "${code:-$ended}"', ""])
