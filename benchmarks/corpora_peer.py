"""The same requests asked by distilabel, in an interpreter that has it: called by `benchmarks.corpora --peer`.

    python benchmarks/corpora_peer.py PORT REQUESTS

Prints the seconds of the whole run. Its packages do not fit beside ours, whence the environment of its own:

    python -m venv /tmp/peer; /tmp/peer/bin/pip install distilabel openai requests
"""

import os
import sys
import time

CONTENT = "Write a short story (3-5 paragraphs) which only uses very simple words. " * 3
CONCURRENCY = 64


def main() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from distilabel.models import OpenAILLM  # type: ignore[import-not-found]
    from distilabel.pipeline import Pipeline  # type: ignore[import-not-found]
    from distilabel.steps import LoadDataFromDicts  # type: ignore[import-not-found]
    from distilabel.steps.tasks import TextGeneration  # type: ignore[import-not-found]

    port, requests = int(sys.argv[1]), int(sys.argv[2])
    with Pipeline(name="bench") as pipeline:
        asked = [{"instruction": f"{CONTENT} {number}"} for number in range(requests)]
        model = OpenAILLM(model="bench", base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        written = TextGeneration(llm=model, input_batch_size=CONCURRENCY)
        LoadDataFromDicts(data=asked, batch_size=CONCURRENCY).connect(written)
    start = time.perf_counter()
    rows = pipeline.run(use_cache=False)["default"]["train"]
    seconds = time.perf_counter() - start
    if len(rows) != requests or not all(rows["generation"]):
        raise SystemExit(f"{len(rows)} of {requests} rows came back")
    print("seconds", seconds)


if __name__ == "__main__":
    main()
