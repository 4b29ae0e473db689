"""A large split on a Ray cluster.

    pip install ray
    python -m datasets_scripts.launch.on_ray addition --size 1000000000 --output /shared/sums --address auto \\
        --set digits=[1,20] reverse=answer pad=true

Without --address Ray starts on this machine. The nodes need the package and the folder, both under the same path.
"""

import sys

from datatrove.executor import RayPipelineExecutor

from datasets_scripts.launch.pipeline import Arguments, launch, parser


def main(arguments: Arguments = None) -> int:
    """The command; returns the exit code."""
    made = parser("on_ray", "Write a large split of a task by the workers of a Ray cluster.")
    made.add_argument("--address", help="of the cluster, auto for the one of this node; a new local one if not given")
    made.add_argument("--workers", type=int, default=-1, help="tasks at a time; no limit if not given")
    made.add_argument("--memory", type=int, default=2, help="GB a task; 2 if not given")
    options = made.parse_args(arguments)
    try:
        import ray  # type: ignore[import-not-found]
    except ImportError:
        print("error: this launcher needs Ray: pip install ray", file=sys.stderr)
        return 2
    ray.init(address=options.address)
    return launch(
        options,
        RayPipelineExecutor,
        lambda options: {"workers": options.workers, "mem_per_cpu_gb": options.memory},
    )


if __name__ == "__main__":
    sys.exit(main())
