"""A large split on this machine, by several processes.

    python -m datasets_scripts.launch.local addition --size 10000000 --output corpora/sums --workers 8 \\
        --set digits=[1,10] reverse=answer pad=true
"""

import os
import sys

from datasets_scripts.launch.pipeline import Arguments, launch, parser
from hf_tasks.corpora.steps import LocalPipelineExecutor


def main(arguments: Arguments = None) -> int:
    """The command; returns the exit code."""
    made = parser("local", "Write a large split of a task by several processes of this machine.")
    made.add_argument("--workers", type=int, default=os.cpu_count(), help="processes; as many as cores if not given")
    return launch(made.parse_args(arguments), LocalPipelineExecutor, lambda options: {"workers": options.workers})


if __name__ == "__main__":
    sys.exit(main())
