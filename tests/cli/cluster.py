"""A SLURM cluster of this one machine: munge, controller and node daemon below one directory, nothing in /etc."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
GPUS = 2  # character devices like /dev/null: SLURM only hands them out
CONF = """
ClusterName=xsegtest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until its credential has expired: 6 seconds here, 121 by default.
AuthInfo=socket={dir}/munge.sock,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd.pid
SlurmctldLogFile={dir}/slurmctld.log
SlurmdLogFile={dir}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=2,bf_interval=2
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=3600
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=60:00 DefaultTime=10 State=UP
"""


def missing() -> str:
    """Why no cluster can run here, or nothing."""
    paths = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    absent = [name for name in NEEDED if not shutil.which(name, path=paths)]
    if absent:
        return f"SLURM is not installed ({', '.join(absent)})"
    return "" if os.geteuid() == 0 else "a cluster of one machine needs root"


class Cluster:
    """The running cluster; `environment` reaches it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {**os.environ, "SLURM_CONF": str(directory / "slurm.conf")}
        self.environment["PATH"] += ":/usr/sbin:/sbin"

    def start(self) -> None:
        where, host = self.directory, socket.gethostname().split(".")[0]
        for name in ("state", "spool", "dev"):
            (where / name).mkdir(parents=True)
        where.chmod(0o755)
        key = where / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        for number in range(GPUS):
            os.mknod(where / "dev" / f"gpu{number}", 0o020666, os.makedev(1, 3))
        devices = f"{where}/dev/gpu[0-{GPUS - 1}]"
        (where / "gres.conf").write_text(f"AutoDetect=off\nNodeName={host} Name=gpu File={devices}\n")
        controller, node = free_ports(2)
        (where / "slurm.conf").write_text(
            CONF.format(dir=where, host=host, controller=controller, node=node, cpus=os.cpu_count() or 1, gpus=GPUS)
        )
        files = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munged.pid", "log-file": "munged.log"}
        options = [f"--{name}={where / value}" for name, value in files.items()]
        self.run("munged", "--force", *options, f"--seed-file={where / 'seed'}", "--num-threads=2")
        self.run("slurmctld", "-c")
        self.run("slurmd", "-N", host)
        self.wait_until(lambda: self.run("sinfo", "-h", "-o", "%T").startswith("idle"), 30)

    def stop(self) -> None:
        with suppress(subprocess.CalledProcessError):
            self.run("scancel", "-Q", "-u", getpass.getuser())
        numbers = [int((self.directory / f"{name}.pid").read_text()) for name in ("slurmd", "slurmctld", "munged")]
        for number in numbers:
            with suppress(ProcessLookupError):
                os.kill(number, 15)
        for number in numbers:
            with suppress(ProcessLookupError):
                self.wait_until(lambda number=number: os.kill(number, 0), 10)

    def run(self, *command: object) -> str:
        """What a command prints."""
        words = list(map(str, command))
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stderr}"
        return done.stdout

    def signal(self, job: str) -> None:
        """Send USR1 to a job's steps, once: scancel tries again for a minute while the job is being requeued."""
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(["scancel", "-s", "USR1", job], env=self.environment, timeout=1, check=False)

    def finish(self, seconds: float = 120) -> None:
        """Wait until no job is left."""
        self.wait_until(lambda: not self.run("squeue", "-h"), seconds)

    def states(self) -> dict[str, str]:
        """Job name (with array task) -> state, of every job so far."""
        found = {}
        for line in self.run("scontrol", "-o", "show", "job").splitlines():
            facts = dict(word.partition("=")[::2] for word in line.split() if "=" in word)
            found[f"{facts['JobName']}{facts.get('ArrayTaskId', '')}"] = facts["JobState"]
        return found

    def wait_until(self, ready, seconds: float) -> None:
        limit = time.monotonic() + seconds
        while not ready():
            logs = "".join(path.read_text()[-2000:] for path in sorted(self.directory.glob("*.log")))
            assert time.monotonic() < limit, f"{self.run('squeue')}\n{logs}"
            time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
