"""Prints the folder of the tasks, for `lm_eval run --include_path $(python -m hf_tasks.lm_eval)`."""

from pathlib import Path

if __name__ == "__main__":
    print(Path(__file__).resolve().parent)
