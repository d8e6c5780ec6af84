"""Which of several processes this is, as srun or torchrun say."""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from xseg.errors import Unavailable, UsageError

FIRST_PORT, PORTS = 20000, 20000  # job numbers are spread over them


@dataclass(frozen=True)
class Rank:
    """This process among those that train one network together.

    Attributes:
        number: from 0.
        count: processes in all.
        local: number on this machine, which is that of its GPU.
    """

    number: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.number == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.count == 1


def this_rank(environment: Mapping[str, str] = os.environ) -> Rank:
    """The rank of this process: torchrun's variables, else those of a step that srun started, else alone.

    The batch script of a job knows SLURM's task count too, but is no task of a step: without srun a command is alone.

    Raises:
        UsageError: variables that contradict each other.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    environment = {name: value for name, value in environment.items() if value}
    if not {"RANK", "WORLD_SIZE"} <= environment.keys():
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        if not set(names) <= environment.keys():
            return Rank()
    number, count, local = (environment.get(name, "0") for name in names)
    if not all(re.fullmatch("[0-9]+", text) for text in (number, count, local)) or not int(number) < int(count):
        raise UsageError(f"{names[0]}={number}, {names[1]}={count}: no rank among so many", "use srun or torchrun")
    return Rank(int(number), int(count), int(local))


def meeting_point(environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Address and port where the processes meet: torchrun's, else the first node of the SLURM step.

    Raises:
        Unavailable: several nodes, and no way to learn which is the first.
    """
    if {"MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
        port_given = environment["MASTER_PORT"]
        if not re.fullmatch("[0-9]{1,5}", port_given):
            raise UsageError(f"MASTER_PORT={port_given}: no port", "use srun or torchrun, or export a number")
        return environment["MASTER_ADDR"], int(port_given)
    job, step = (environment.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    port = FIRST_PORT + (int(job) * 7 + int(step)) % PORTS if (job + step).isdigit() else FIRST_PORT
    if environment.get("SLURM_STEP_NUM_NODES", "1") == "1":
        return "127.0.0.1", port
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    try:
        found = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(
            f"several nodes ({nodes}), and scontrol does not say which is the first ({error})",
            "export MASTER_ADDR and MASTER_PORT before srun",
        ) from error
    return found.stdout.split()[0], port
