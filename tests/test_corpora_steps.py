"""Deduplication and filters: against brute force and by hand, cut into any number of tasks, killed, and under Slurm."""

import asyncio
import importlib.util
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("datatrove", reason="of the extra `textbooks`")
pytest.importorskip("py3langid", reason="of the extra `textbooks`")
pytest.importorskip("dill", reason="of the extra `textbooks`")

import dill
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
from datatrove.pipeline.dedup import MinhashConfig, MinhashDedupCluster, MinhashDedupFilter
from datatrove.pipeline.filters import GopherRepetitionFilter

from hf_tasks.corpora import GRAMMARS, get_corpus
from hf_tasks.corpora import steps as module
from hf_tasks.corpora.diversity import words
from hf_tasks.corpora.steps import (
    CODE_STEPS,
    STEPS,
    KeepFirst,
    LanguageFilter,
    RepetitionFilter,
    Words,
    across,
    chain,
    clean,
    collect,
    prepare,
    stages,
)
from hf_tasks.errors import UserError

# One short story in ten languages, English first.
STORIES = [
    "A little girl had a red ball. She lost it in the park. A dog found it and gave it back. Now they are friends.",
    "Une petite fille avait un ballon rouge. Elle l'a perdu dans le parc. Un chien l'a trouvé et le lui a rendu.",
    "Ein kleines Mädchen hatte einen roten Ball. Sie verlor ihn im Park. Ein Hund fand ihn und gab ihn zurück.",
    "Una niña tenía una pelota roja. La perdió en el parque. Un perro la encontró y se la devolvió.",
    "Una bambina aveva una palla rossa. La perse nel parco. Un cane la trovò e gliela riportò.",
    "Een klein meisje had een rode bal. Ze verloor hem in het park. Een hond vond hem en gaf hem terug.",
    "Uma menina tinha uma bola vermelha. Ela perdeu a bola no parque. Um cachorro achou e devolveu a bola.",
    "Mała dziewczynka miała czerwoną piłkę. Zgubiła ją w parku. Pies ją znalazł i oddał.",
    "У маленькой девочки был красный мяч. Она потеряла его в парке. Собака нашла его и вернула.",
    "小さな女の子は赤いボールを持っていました。公園でなくしました。犬が見つけて返してくれました。",
]
REPEATED = "The cat sat on the mat. " * 12


@cache
def written(name: str, count: int) -> list[str]:
    """Texts of a corpus, by its grammar."""
    corpus, writer = get_corpus(name), GRAMMARS[name]()

    async def texts() -> list[str]:
        requests = [corpus.request(index, corpus.parameters(index, 7)) for index in range(count)]
        return [corpus.text(corpus.read(one, (await writer.write(one, 0)).text)) for one in requests]

    return asyncio.run(texts())


def documents(texts: list[str]) -> list[Document]:
    return [Document(text=text, id=str(number)) for number, text in enumerate(texts)]


@cache
def mixed() -> pa.Table:
    """Fifty rows; what becomes of them is `FATE`, by row."""
    texts: list[str | None] = list(written("tinystories", 50))
    texts[3] = STORIES[2] * 3
    texts[10] = REPEATED
    texts[20] = texts[40] = texts[12]  # cut in three: the thirteenth of its piece, and the sixth and tenth of theirs
    texts[30] = str(texts[7]).replace(" the ", " that ", 1)
    texts[41] = str(texts[7]).replace(" a ", " one ", 1)
    texts[44] = REPEATED + "."
    texts[46], texts[47], texts[48] = None, "", " \n"
    lists = [[row, row + 1] for row in range(50)]
    return pa.table({"number": list(range(50)), "text": texts, "lists": lists, "gap": [None, "x"] * 25})


FATE = {
    3: "language", 10: "repetition", 44: "repetition", 20: "exact_duplicate", 40: "exact_duplicate",
    30: "near_duplicate", 41: "near_duplicate", 46: "empty", 47: "empty", 48: "empty",
}  # fmt: skip
WITHOUT_LANGUAGE = Counter((FATE | {3: "repetition"}).values())  # it stands there three times
STAY = [row for row in range(50) if row not in FATE]


def test_rows_stay_whole_and_in_order_and_the_rest_is_counted(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    kept, dropped = clean(mixed(), tmp_path)
    assert kept.equals(mixed().take(STAY))
    assert dropped == Counter(FATE.values())
    assert capfd.readouterr() == ("", "")  # datatrove logs into `work`
    [folder] = tmp_path.iterdir()
    assert "MinHash" in (folder / "datatrove.log").read_text("utf-8")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert clean(mixed(), tmp_path)[0].equals(kept)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}  # nothing is done again


def test_the_number_of_tasks_changes_nothing(tmp_path: Path) -> None:
    kept, dropped = clean(mixed(), tmp_path, STEPS[1:], tasks=3)
    assert kept.equals(mixed().take(STAY))
    assert dropped == WITHOUT_LANGUAGE


def in_this_process(table: pa.Table, work: Path, steps: tuple[str, ...], tasks: int) -> tuple[list[int], Counter[str]]:
    folder = prepare(table, work, steps, tasks)
    chain(stages(folder, steps, tasks), LocalPipelineExecutor, workers=1).run()
    kept, dropped = collect(table, folder, steps, tasks)
    return kept["number"].to_pylist(), dropped


def test_more_tasks_than_rows_and_nothing_left(tmp_path: Path) -> None:
    two = pa.table({"number": [0, 1, 2], "text": ["Hi.", "Hi.", "Go home now, you big dog."]})
    assert in_this_process(two, tmp_path, CODE_STEPS, 5) == ([0, 2], Counter(exact_duplicate=1))
    none = pa.table({"number": [0, 1], "text": [REPEATED, STORIES[1]]})
    assert in_this_process(none, tmp_path, STEPS, 3) == ([], Counter(repetition=1, language=1))
    empty = pa.table({"number": [0], "text": [""]})
    assert clean(empty, tmp_path, ())[1] == Counter(empty=1)


def test_steps_run_in_the_order_given(tmp_path: Path) -> None:
    table = pa.table({"number": [0, 1, 2], "text": [REPEATED, REPEATED, STORIES[0]]})
    filtered = in_this_process(table, tmp_path, ("repetition", "exact_duplicate"), 1)
    deduplicated = in_this_process(table, tmp_path, ("exact_duplicate", "repetition"), 1)
    assert filtered == ([2], Counter(repetition=2))
    assert deduplicated == ([2], Counter(exact_duplicate=1, repetition=1))


def shingles(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return set(zip(*(found[shift:] for shift in range(5)), strict=False))


def test_near_duplicates_are_those_of_brute_force(tmp_path: Path) -> None:
    rng, vocabulary = random.Random(0), [f"word{chr(97 + a)}{chr(97 + b)}" for a in range(20) for b in range(20)]
    base = [rng.choices(vocabulary, k=120) for _ in range(30)]
    texts = [" ".join(one) for one in base]
    for number, changes in enumerate([1] * 12 + [60] * 12):  # likeness about 0.92; next to none
        changed = list(base[number])
        for place in rng.sample(range(120), changes):
            changed[place] = rng.choice(vocabulary)
        texts.append(" ".join(changed))
    order = rng.sample(range(len(texts)), len(texts))
    texts = [texts[place] for place in order]
    grams = [shingles(text) for text in texts]
    alike = [
        max((len(grams[a] & grams[b]) / len(grams[a] | grams[b]) for b in range(a)), default=0.0)
        for a in range(len(texts))
    ]
    assert sum(share > 0.9 for share in alike) == 12 and not any(0.4 < share <= 0.9 for share in alike)
    table = pa.table({"number": range(len(texts)), "text": texts})
    kept, dropped = in_this_process(table, tmp_path, ("near_duplicate",), 4)
    assert kept == [row for row, share in enumerate(alike) if share <= 0.4]
    assert dropped == Counter(near_duplicate=12)


def test_the_first_stays_however_the_others_were_found(tmp_path: Path) -> None:
    """Ten times: a text, another that MinHash may or may not find to be like it, and its equal in capitals.

    datatrove joins the last two first, being alike in every bucket, and drops the first text for the second.
    """
    rng, texts = random.Random(1), []
    for group in range(10):
        base = [f"word{chr(97 + group)}{chr(97 + a)}{chr(97 + b)}" for a in range(10) for b in range(12)]
        changed = list(base)
        for place in rng.sample(range(len(base)), 4):
            changed[place] = "other"
        texts += [" ".join(changed), " ".join(base), " ".join(base).upper()]
    kept, _ = in_this_process(pa.table({"number": range(30), "text": texts}), tmp_path, ("near_duplicate",), 4)
    assert set(range(0, 30, 3)) < set(kept) < {row for row in range(30) if row % 3 < 2}


@given(st.lists(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=8), min_size=1, max_size=4))
def test_the_first_of_each_cluster_stays(tmp_path_factory: pytest.TempPathFactory, ranks: list) -> None:
    """A rank is a list of documents: whether they are in a cluster, and in which."""
    clusters, removed = (tmp_path_factory.mktemp(name) for name in ("clusters", "removed"))
    seen, expected = set(), []
    for rank, found in enumerate(ranks):
        pairs = [(number, cluster) for number, (inside, cluster) in enumerate(found) if inside]
        if pairs:
            (clusters / f"{rank:06d}.clusters").write_bytes(b"".join(struct.pack("<2I", *pair) for pair in pairs))
        for number, (inside, cluster) in enumerate(found):
            if not inside or cluster not in seen:
                expected.append((rank, number))
            seen |= {cluster} if inside else set()
    KeepFirst(clusters, removed).run()
    kept = [
        (rank, int(document.id))
        for rank, found in enumerate(ranks)
        for document in MinhashDedupFilter(str(removed)).run(iter(documents(["x"] * len(found))), rank, len(ranks))
    ]
    assert kept == expected


def test_datatrove_alone_would_keep_another_one(tmp_path: Path) -> None:
    """Why `KeepFirst` is there: 1 is like 2, 3 and 0, so that 0 is the first of the cluster."""
    config = MinhashConfig(num_buckets=1)
    pairs = [(1, 2), (1, 3), (0, 1)]
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "00000_00.dups").write_bytes(b"".join(struct.pack("<4I", 0, a, 0, b) for a, b in pairs))
    clusters = str(tmp_path / "clusters")
    MinhashDedupCluster(str(tmp_path / "pairs"), clusters, config, save_cluster_id=True).run()
    theirs = list(MinhashDedupFilter(clusters).run(iter(documents(["x"] * 5))))
    assert [one.id for one in theirs] == ["1", "4"]
    KeepFirst(tmp_path / "clusters", tmp_path / "first").run()
    ours = list(MinhashDedupFilter(str(tmp_path / "first")).run(iter(documents(["x"] * 5))))
    assert [one.id for one in ours] == ["0", "4"]


def test_languages_of_short_stories_are_told() -> None:
    step = LanguageFilter()
    assert [one.id for one in step.run(iter(documents(STORIES)))] == ["0"]
    assert step.stats["total"].total == 10 and step.stats["dropped_fr"].total == 1
    paragraphs = [part for story in written("tinystories", 200) for part in story.split("\n\n")]
    assert len(list(step.run(iter(documents(paragraphs))))) == len(paragraphs)


def test_a_text_too_short_to_tell_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    short = ["The dog ran.", "Hello!", "123", "Pablo gave Clara a hug."]
    assert len(list(LanguageFilter().run(iter(documents(short))))) == 4
    monkeypatch.setattr("hf_tasks.corpora.steps._SURE", 0.0)
    assert list(LanguageFilter().run(iter(documents(["Hello!"])))) == []


def test_good_rows_are_not_dropped_wholesale_for_repetition() -> None:
    step = RepetitionFilter()
    stories = written("tinystories", 200)
    paragraphs = [part for story in stories for part in story.split("\n\n")]
    for texts in (stories, paragraphs, written("code_exercises", 200), STORIES):
        kept = len(list(step.run(iter(documents(list(texts))))))
        assert kept >= 0.99 * len(texts)
    theirs = GopherRepetitionFilter(language=Words())  # type: ignore[arg-type]
    assert len(list(theirs.run(iter(documents(paragraphs))))) < 0.9 * len(paragraphs)  # why there is one of our own


def test_what_repeats_itself_is_dropped_with_datatrove_reasons() -> None:
    lines = "\n".join(["I like cake.", "It was a big day for all of them."] * 5)
    again = "Then the little dog ran home to his mother. " * 3 + STORIES[0]
    step = RepetitionFilter()
    assert list(step.run(iter(documents([REPEATED, lines, again, "no no no no no no"])))) == []
    assert step.stats["dropped"].total == 4 and step.stats["dropped_dup_line_frac"].total == 1


def test_what_an_earlier_table_has_goes_and_says_how(tmp_path: Path) -> None:
    stories = written("tinystories", 6)
    near = stories[0] + " The end of it all."
    table = pa.table({"text": [stories[3], stories[1], near, stories[4]], "number": [0, 1, 2, 3]})
    # The earlier texts may be alike themselves; of `table` that tells nothing.
    earlier = [stories[0], near + " Yes.", stories[1], stories[1]]
    kept, dropped = across(table, earlier, tmp_path)
    assert kept.equals(table.take([0, 3]))
    assert dropped == Counter(exact_duplicate_of_earlier_part=1, near_duplicate_of_earlier_part=1)
    kept, dropped = across(table, earlier, tmp_path, ["exact_duplicate"], tasks=2)
    assert kept["number"].to_pylist() == [0, 2, 3] and dropped == Counter(exact_duplicate_of_earlier_part=1)
    assert across(table, [stories[5]], tmp_path)[0].equals(table)
    with pytest.raises(UserError, match=r"'language' finds no duplicates; those that do: exact_duplicate, near"):
        across(table, earlier, tmp_path, ["exact_duplicate", "language"])


def test_a_bar_shows_how_far_datatrove_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, for rich
    seen: list[int] = []
    count = module._completed
    monkeypatch.setattr(module, "_completed", lambda made: seen.append(count(made)) or seen[-1])
    clean(mixed(), tmp_path, CODE_STEPS, tasks=2)
    [folder] = tmp_path.iterdir()
    whole = sum(stage.tasks for stage in stages(folder, CODE_STEPS, 2))
    assert seen == sorted(seen) and seen[-1] == whole > 14
    assert "clean" in (said := capsys.readouterr().err) and "100%" in said


RUN = """
import sys, pyarrow.parquet as pq
from hf_tasks.corpora.steps import STEPS, clean
clean(pq.read_table(sys.argv[1]), sys.argv[2], STEPS[1:], tasks=2)
"""


def alive(folder: Path) -> list[str]:
    """Processes whose command line names a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        found += [path.parent.name] if str(folder).encode() in line else []
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
def test_killed_in_the_middle_it_goes_on_and_leaves_no_process(tmp_path: Path) -> None:
    pq.write_table(mixed(), tmp_path / "rows.parquet")
    table, work = pq.read_table(tmp_path / "rows.parquet"), tmp_path / "work"
    command = [sys.executable, "-c", RUN, str(tmp_path / "rows.parquet"), str(work)]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 60
        while not list(work.glob("*/near_duplicate/logs/signatures/logs/*")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    while alive(work):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    [folder] = work.iterdir()
    near, done = folder / "near_duplicate", [*(folder / "repetition").rglob("*")]
    first = {path: path.stat().st_mtime_ns for path in done}
    assert first and not list(near.glob("*.json")) and not (near / "logs/pairs").exists()
    # What writing that was cut off may leave.
    (near / "pairs").mkdir(exist_ok=True)
    for name in ("pairs/00000_00.dups", "00000.json.part", ".00000.json.part"):
        (near / name).write_bytes(b"\x07" * 13)
    (folder / "documents.part").mkdir()
    kept, dropped = clean(table, work, STEPS[1:], tasks=2)
    assert kept.equals(table.take(STAY)) and dropped == WITHOUT_LANGUAGE
    assert first == {path: path.stat().st_mtime_ns for path in done}  # finished tasks were not done again


def test_another_request_shares_nothing(tmp_path: Path) -> None:
    table = mixed()
    folders = {
        prepare(table, tmp_path),
        prepare(table, tmp_path, tasks=2),
        prepare(table, tmp_path, CODE_STEPS),
        prepare(table.slice(1), tmp_path),
    }
    assert len(folders) == 4
    assert prepare(table.select(["text", "number"]), tmp_path) in folders  # other columns are no part of it
    with pytest.raises(UserError, match=r"'language' .* not finished"):
        collect(table, prepare(table, tmp_path))


def test_what_befalls_datatrove_is_told(tmp_path: Path) -> None:
    table, steps = mixed(), ("repetition",)
    folder = prepare(table, tmp_path, steps)
    (folder / "repetition").write_text("in the way")
    with pytest.raises(OSError, match=str(folder)):
        clean(table, tmp_path, steps)
    (folder / "repetition").unlink()
    documents = folder / "documents" / "00000.parquet"
    whole = documents.read_bytes()
    documents.write_bytes(whole[:-10])
    with pytest.raises(RuntimeError, match=r"datatrove failed .*datatrove\.log"):
        clean(table, tmp_path, steps)
    documents.write_bytes(whole)
    assert clean(table, tmp_path, steps)[1] == Counter(repetition=3, empty=3)


SBATCH = """#!/bin/sh
number=$(($(cat {folder}/number) + 1))
echo $number > {folder}/number
for last; do :; done
cp "$last" {folder}/$number.sh
echo "$@" > {folder}/$number.args
echo "Submitted batch job $number"
"""


def test_the_same_stages_run_under_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """Against an `sbatch` that only keeps the scripts, which are then done as Slurm would."""
    programs = {"sbatch": SBATCH.format(folder=tmp_path), "scontrol": "#!/bin/sh\necho localhost\n"}
    (tmp_path / "bin").mkdir()
    (tmp_path / "number").write_text("0")
    for name, script in programs.items():
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    folder = prepare(mixed(), tmp_path / "work", tasks=2)
    settings = {"time": "00:10:00", "partition": "cpu", "requeue_signals": None}
    chain(stages(folder, tasks=2), SlurmPipelineExecutor, **settings).run()
    scripts = [path.read_text("utf-8") for path in sorted(tmp_path.glob("*.sh"), key=lambda path: int(path.stem))]
    jobs = [line for script in scripts for line in script.splitlines() if "launch_pickled_pipeline" in line]
    assert len(jobs) == len(stages(folder, tasks=2)) == 9 and "#SBATCH --array=0-13" in "\n".join(scripts)
    arguments = [path.read_text() for path in tmp_path.glob("*.args")]
    assert sum("--dependency=afterok:" in line for line in arguments) == 8  # all but the first
    monkeypatch.setenv("SLURM_NODELIST", "localhost")
    for job in jobs:
        with open(job.split()[-1], "rb") as file:
            executor = dill.load(file)
        for rank in range(executor.tasks):
            monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(rank))
            executor.run()
    kept, dropped = collect(mixed(), folder, tasks=2)
    assert kept.equals(mixed().take(STAY)) and dropped == Counter(FATE.values())
    capfd.readouterr()  # datatrove's log


def test_the_same_stages_go_under_ray(tmp_path: Path) -> None:
    made = stages(prepare(mixed(), tmp_path, CODE_STEPS), CODE_STEPS)
    last, names = chain(made, RayPipelineExecutor, cpus_per_task=2), []
    while last is not None:
        names.append(last.logging_dir.path)
        last = last.depends
    assert names[::-1] == [str(stage.logging_dir) for stage in made]
    assert [stage.name for stage in made][:3] == [
        f"exact_duplicate {what}" for what in ("signatures", "find", "filter")
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": ["near_duplicates"]}, "unknown step 'near_duplicates' .did you mean 'near_duplicate'"),
        ({"steps": ["language", "language"]}, "one stands there twice"),
        ({"tasks": 0}, "tasks is 0; give a number from 1"),
        ({"tasks": 10_001}, "tasks is 10001"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        clean(mixed(), tmp_path, **settings)
    with pytest.raises(UserError, match="no column 'text' in the table; it has number, gap"):
        clean(mixed().select(["number", "gap"]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_its_packages_the_error_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(UserError, match=r"'py3langid'.*textbooks") as caught:
        clean(mixed(), tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "datatrove.data", None)
    spec = importlib.util.spec_from_file_location("steps_without_datatrove", module.__file__)
    assert spec is not None and spec.loader is not None
    with pytest.raises(UserError, match=r"datatrove.*textbooks") as caught:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert "\n" not in str(caught.value)
