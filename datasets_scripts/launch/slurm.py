"""A large split on a Slurm cluster: an array of jobs for the shares, and one behind them.

    python -m datasets_scripts.launch.slurm addition --size 1000000000 --output /shared/sums --partition cpu \\
        --time 1:00:00 --venv /shared/hf-tasks/.venv --set digits=[1,20] reverse=answer pad=true

Run it on the login node, from where `sbatch` works; it returns when the jobs are queued. The same command again queues
what has not been finished. On the nodes the package must be installed as it is here (`pip install -e`, the venv on the
common disk).
"""

import sys
from pathlib import Path

from datatrove.executor import SlurmPipelineExecutor

from datasets_scripts.launch.pipeline import Arguments, launch, parser


def main(arguments: Arguments = None) -> int:
    """The command; returns the exit code."""
    made = parser("slurm", "Write a large split of a task by an array of Slurm jobs.")
    made.add_argument("--partition", required=True, help="of the cluster")
    made.add_argument("--time", default="1:00:00", help="limit of a job; one hour if not given")
    made.add_argument("--workers", type=int, default=-1, help="jobs at a time; no limit if not given")
    made.add_argument("--memory", type=int, default=2, help="GB a job; 2 if not given")
    made.add_argument("--qos", default="normal", help="quality of service; normal if not given")
    made.add_argument("--venv", default=sys.prefix, help="virtual environment on the nodes; this one if not given")
    return launch(
        made.parse_args(arguments),
        SlurmPipelineExecutor,
        lambda options: {
            "partition": options.partition,
            "time": options.time,
            "workers": options.workers,
            "mem_per_cpu_gb": options.memory,
            "qos": options.qos,
            "venv_path": str(Path(options.venv) / "bin" / "activate"),
            "job_name": f"hf-tasks-{options.task}",
        },
    )


if __name__ == "__main__":
    sys.exit(main())
