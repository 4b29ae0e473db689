"""`write_dataset`: what is on disk after success, repetition, interruption, refusal and a full disk."""

import errno
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hf_tasks import dataset
from hf_tasks.cards import size_category
from hf_tasks.dataset import shard_rows, source_hash, write_dataset
from hf_tasks.errors import UserError
from hf_tasks.tasks import get_task
from hf_tasks.tasks.base import BLOCK

ROWS = 2 * BLOCK + 100  # three shards where a shard is one block
COMMAND = "hf-tasks generate addition --split train"
TASK = get_task("addition", digits=(3, 5), reverse="answer", pad=True)


@pytest.fixture
def no_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file under a folder, hidden ones too, with its time of change and its bytes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def front_matter(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text("utf-8").split("---\n")[1])


def test_it_loads_back_with_the_rows_of_the_task(tmp_path: Path, one_block_shards: None, no_cache: str) -> None:
    folder = write_dataset(TASK, tmp_path / "data", {"train": ROWS, "test": 50}, seed=7, command=COMMAND)
    loaded = datasets.load_dataset(str(folder), cache_dir=no_cache)
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": ROWS, "test": 50}
    for split, size in (("train", ROWS), ("test", 50)):
        assert loaded[split].data.table.combine_chunks() == TASK.table(split, size, seed=7)


def test_the_folder_holds_whole_files_alone(tmp_path: Path, one_block_shards: None) -> None:
    write_dataset(TASK, tmp_path, {"train": ROWS, "validation": 10})
    assert sorted(snapshot(tmp_path)) == [
        "README.md",
        "data/train/00000-of-00003.parquet",
        "data/train/00001-of-00003.parquet",
        "data/train/00002-of-00003.parquet",
        "data/train/provenance.json",
        "data/validation/00000-of-00001.parquet",
        "data/validation/provenance.json",
        "statistics.png",
    ]


def test_row_groups_bound_memory_and_shards_bound_files(tmp_path: Path) -> None:
    long = get_task("addition", digits=(500, 1000))
    assert shard_rows(long) < shard_rows(TASK)
    for task in (long, TASK):
        assert shard_rows(task) % BLOCK == 0
        assert shard_rows(task) * sum(task.max_lengths) < 2 * dataset.SHARD_BYTES
    write_dataset(long, tmp_path, {"test": BLOCK + 1})
    assert pq.ParquetFile(tmp_path / "data/test/00000-of-00001.parquet").num_row_groups == 2


def test_the_card_says_what_it_is_and_what_made_it(tmp_path: Path) -> None:
    write_dataset(TASK, tmp_path, {"train": 1500, "test": 20}, seed=7, command=COMMAND)
    head, text = front_matter(tmp_path), (tmp_path / "README.md").read_text("utf-8")
    assert head["license"] == "apache-2.0"
    assert head["size_categories"] == "1K<n<10K"
    assert head["configs"] == [
        {
            "config_name": "default",
            "data_files": [
                {"split": "train", "path": "data/train/*.parquet"},
                {"split": "test", "path": "data/test/*.parquet"},
            ],
            "default": True,
        }
    ]
    first = TASK.generate("train", 1, seed=7)
    for expected in (
        "| default | train | 1,500 | addition | train | 7 |",
        f"    {COMMAND}\n",
        source_hash(),
        "`digits=[3, 5]`",
        f'| `"{first["prompt"][0]}"` |',
        "train 90%, validation 5%, test 5%",
        "| digits_a | 3 … ",
    ):
        assert expected in text
    for name, description in TASK.columns.items():
        assert f"| `{name}` | {description} |" in text


@pytest.mark.parametrize(
    ("rows", "category"),
    [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (9999, "1K<n<10K"), (10**7, "10M<n<100M"), (10**12, "n>1T")],
)
def test_size_categories(rows: int, category: str) -> None:
    assert size_category(rows) == category


def test_the_same_call_again_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(TASK, tmp_path, {"train": 100, "test": 10}, command=COMMAND)
    before = snapshot(tmp_path)
    monkeypatch.setattr(dataset, "_write_split", lambda *_: pytest.fail("a finished split is written again"))
    write_dataset(TASK, tmp_path, {"train": 100, "test": 10}, command=COMMAND)
    assert snapshot(tmp_path) == before


def test_the_same_call_elsewhere_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_dataset(TASK, tmp_path / name, {"train": 100}, command=COMMAND)
    a, b = (snapshot(tmp_path / name) for name in "ab")
    assert {name: content for name, (_, content) in a.items()} == {name: content for name, (_, content) in b.items()}


def test_a_second_call_adds_a_split(tmp_path: Path) -> None:
    write_dataset(TASK, tmp_path, {"test": 10})
    before = snapshot(tmp_path)
    write_dataset(TASK, tmp_path, {"train": 100})
    after = snapshot(tmp_path)
    assert all(after[name] == before[name] for name in before if name.startswith("data/"))
    assert [files["split"] for files in front_matter(tmp_path)["configs"][0]["data_files"]] == ["train", "test"]


def test_a_run_killed_before_its_card_is_mended(tmp_path: Path) -> None:
    write_dataset(TASK, tmp_path, {"test": 10, "train": 20})
    card = (tmp_path / "README.md").read_bytes()
    for left in (None, "the card of one split"):
        (tmp_path / "README.md").unlink()
        if left:
            (tmp_path / "README.md").write_text(left)
        write_dataset(TASK, tmp_path, {"train": 20})
        assert (tmp_path / "README.md").read_bytes() == card


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed 0, not 1"),
        ({"sizes": {"train": 101}}, "size 100, not 101"),
        ({"task": get_task("addition", digits=(3, 6))}, "'digits': [3, 6]"),
        ({"task": get_task("copy")}, "task 'addition', not 'copy'"),
        ({"task": get_task("copy"), "sizes": {"test": 10}}, "task 'addition', not 'copy'"),
    ],
)
def test_a_folder_with_another_dataset_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    call = {"task": TASK, "output": tmp_path, "sizes": {"train": 100}}
    write_dataset(**call)
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match="holds another dataset") as caught:
        write_dataset(**call | change)
    assert message in str(caught.value)
    assert snapshot(tmp_path) == before


def test_rows_of_other_sources_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(TASK, tmp_path, {"train": 100})
    monkeypatch.setattr(dataset, "source_hash", lambda: "0123456789abcdef")
    with pytest.raises(UserError, match="not '0123456789abcdef'"):
        write_dataset(TASK, tmp_path, {"test": 10})


def test_a_folder_with_other_files_is_refused_and_a_clone_is_not(tmp_path: Path) -> None:
    (tmp_path / ".gitattributes").touch()
    write_dataset(TASK, tmp_path, {"test": 10})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"holds other files \('thesis.tex'\)"):
        write_dataset(TASK, tmp_path / "mine", {"test": 10})
    with pytest.raises(UserError, match="is a file"):
        write_dataset(TASK, tmp_path / "README.md", {"test": 10})


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({}, "no split to write"),
        ({"trian": 10}, "did you mean 'train'"),
        ({"train": 0}, "size 0 of split 'train'"),
        ({"train": 1.5}, r"size 1\.5"),
        ({"train": True}, "size True"),
    ],
)
def test_bad_sizes_are_refused_before_anything_is_written(tmp_path: Path, sizes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_dataset(TASK, tmp_path / "data", sizes)
    assert not (tmp_path / "data").exists()


def test_a_split_too_small_to_exist_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too few"):
        write_dataset(get_task("addition", digits=(1, 1)), tmp_path / "data", {"train": 10, "test": 10})
    assert not (tmp_path / "data").exists()


class Interrupted:
    """Table calls of a task, the n-th of which raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> None:
        self.calls, original = 0, type(TASK).table

        def table(task, *args, **kwargs) -> pa.Table:
            self.calls += 1
            if self.calls == at:
                raise error
            return original(task, *args, **kwargs)

        monkeypatch.setattr(type(TASK), "table", table)


def test_an_interrupted_run_shows_no_data_and_continues(
    tmp_path: Path, one_block_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = snapshot(write_dataset(TASK, tmp_path / "whole", {"train": ROWS}, command=COMMAND))
    folder = tmp_path / "folder"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Interrupted(patch, at=3, error=KeyboardInterrupt())
        write_dataset(TASK, folder, {"train": ROWS}, command=COMMAND)
    left = snapshot(folder)
    assert sorted(left) == [".train.partial/00000-of-00003.parquet", ".train.partial/provenance.json"]
    write_dataset(TASK, folder, {"train": ROWS}, command=COMMAND)
    after = snapshot(folder)
    assert {name: content for name, (_, content) in after.items()} == {
        name: content for name, (_, content) in whole.items()
    }
    shard = "00000-of-00003.parquet"
    assert after[f"data/train/{shard}"] == left[f".train.partial/{shard}"]  # kept, not made again


def test_leftovers_of_another_run_are_not_used(
    tmp_path: Path, one_block_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Interrupted(patch, at=3, error=KeyboardInterrupt())
        write_dataset(TASK, tmp_path, {"train": ROWS}, seed=1)
    write_dataset(TASK, tmp_path, {"train": ROWS}, seed=0)
    made = pq.read_table(tmp_path / "data/train/00000-of-00003.parquet")
    assert made == TASK.table("train", BLOCK, seed=0)


FULL = OSError(errno.ENOSPC, "No space left on device")


def fail_at(monkeypatch: pytest.MonkeyPatch, table: int, error: BaseException = FULL) -> None:
    """Let the parquet writer meet an error, a full disk if no other, at its n-th table, with half of a file written."""
    calls, original = 0, pq.ParquetWriter.write_table

    def write_table(self: pq.ParquetWriter, *args, **kwargs) -> None:
        nonlocal calls
        calls += 1
        if calls == table:
            raise error
        original(self, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", write_table)


def test_a_full_disk_leaves_nothing_and_says_so(
    tmp_path: Path, one_block_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, table=2)
    with pytest.raises(UserError, match=r"no space left on the disk of .*free some space") as caught:
        write_dataset(TASK, tmp_path / "data", {"train": ROWS})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_finished_splits(
    tmp_path: Path, one_block_shards: None, monkeypatch: pytest.MonkeyPatch, no_cache: str
) -> None:
    whole = write_dataset(TASK, tmp_path / "whole", {"test": 10})
    fail_at(monkeypatch, table=3)
    with pytest.raises(UserError, match="no space left"):
        write_dataset(TASK, tmp_path / "full", {"test": 10, "train": ROWS})
    full, expected = ({name: file[1] for name, file in snapshot(f).items()} for f in (tmp_path / "full", whole))
    assert full == expected
    assert len(datasets.load_dataset(str(tmp_path / "full"), cache_dir=no_cache)["test"]) == 10


def test_a_full_disk_at_the_card_leaves_no_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.write_bytes

    def write_bytes(path: Path, content: bytes) -> int:
        original(path, content[:50])
        if "README" in path.name:
            raise FULL
        return original(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(UserError, match="no space left"):
        write_dataset(TASK, tmp_path, {"test": 10})
    assert sorted(snapshot(tmp_path)) == [
        "data/test/00000-of-00001.parquet", "data/test/provenance.json", "statistics.png",
    ]  # fmt: skip


def test_an_interrupt_inside_a_shard_leaves_no_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "BATCH_BYTES", 1)
    fail_at(monkeypatch, table=2, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write_dataset(TASK, tmp_path, {"train": ROWS})
    assert sorted(snapshot(tmp_path)) == [".train.partial/provenance.json"]


def test_other_errors_of_the_disk_are_not_called_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Interrupted(monkeypatch, at=2, error=PermissionError(errno.EACCES, "no"))
    with pytest.raises(PermissionError):
        write_dataset(TASK, tmp_path, {"train": 10})


def test_configs_and_named_splits_live_side_by_side(tmp_path: Path, no_cache: str) -> None:
    longer = get_task("addition", digits=(8, 8), reverse="answer", pad=True)
    write_dataset(TASK, tmp_path, {"train": 50, "test": 10})
    write_dataset(longer, tmp_path, {"test": 20}, name="test_8")
    write_dataset(get_task("copy"), tmp_path, {"test": 30}, config="copies")
    assert [*dataset.finished_splits(tmp_path)] == ["data/train", "data/test", "data/test_8", "copies/test"]
    loaded = datasets.load_dataset(str(tmp_path), "default", cache_dir=no_cache)
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 50, "test": 10, "test_8": 20}
    assert loaded["test_8"]["prompt"][:] == longer.generate("test", 20)["prompt"]
    assert len(datasets.load_dataset(str(tmp_path), "copies", cache_dir=no_cache)["test"]) == 30
    with pytest.raises(UserError, match="its split 'test_8' was made with parameters"):
        write_dataset(TASK, tmp_path, {"test": 20}, name="test_8")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"config": "README.md"}, "'README.md' is no name for a config"),
        ({"config": "data"}, "not 'data'"),
        ({"config": "../x"}, "no name for a config"),
        ({"name": "all"}, "means every"),
        ({"name": "a-b"}, "'a-b' is no name for a split"),
        ({"name": "train"}, "problems of that split, not of 'test'"),
    ],
)
def test_bad_names_are_refused_before_anything_is_written(tmp_path: Path, names: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_dataset(TASK, tmp_path / "data", {"test": 10}, **names)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("broken", "message"),
    [("{", "no provenance"), ("[]", "no provenance"), ('{"task": "addition"}', "of another version")],
)
def test_a_broken_provenance_is_one_line(tmp_path: Path, broken: str, message: str) -> None:
    write_dataset(TASK, tmp_path, {"test": 10})
    (tmp_path / "data/test/provenance.json").write_text(broken)
    with pytest.raises(UserError, match=message):
        dataset.finished_splits(tmp_path)
