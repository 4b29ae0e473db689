"""What is published, to a Hub on the loopback over HTTP: all of it in one commit, or nothing and a line that says so.

Models here are untrained: publishing does not ask how well a model does. What strangers make of a repository is the
matter of test_publish_strangers.py.
"""

import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Loopback
from huggingface_hub import CommitOperationAdd, DatasetCard, ModelCard
from huggingface_hub._eval_results import parse_eval_result_entries
from safetensors.numpy import save_file
from samples import sums_output, sums_recipe, sums_results

from hf_tasks import publish as publishing
from hf_tasks import upload
from hf_tasks.cli import main
from hf_tasks.dataset import write_dataset
from hf_tasks.errors import UserError
from hf_tasks.publish import publish, publish_dataset, publish_metric, publish_model
from hf_tasks.tasks import get_task

# huggingface_hub 2.4 hands a file to httpx2 in a way that httpx2 advises against.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

METRICS = Path(publishing.__file__).parent / "metrics"
CODE = {
    "configuration_positional.py",
    "distance_attention.py",
    "modeling_positional.py",
    "position_encodings.py",
    "position_ids.py",
}
SUMS = get_task("addition", digits=(1, 3), reverse="answer", pad=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a finished run, not to be changed."""
    root = tmp_path_factory.mktemp("run")
    return sums_output(sums_recipe(root), root / "out", sums_results())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder of one's own."""
    return sums_output(sums_recipe(tmp_path), tmp_path / "out", sums_results()) / "ours-seed1"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A dataset of two configs."""
    write_dataset(SUMS, tmp_path / "sums", {"train": 300, "test": 40}, command="hf-tasks generate addition")
    return write_dataset(get_task("addition", digits=(1, 3)), tmp_path / "sums", {"test": 30}, config="plain")


def there(loopback: Loopback, repo_id: str, kind: str = "model", revision: str = "main") -> dict[str, bytes]:
    """Every file of a repository."""
    names = loopback.api.list_repo_files(repo_id, repo_type=kind, revision=revision)
    root = f"{loopback.url}/{'' if kind == 'model' else kind + 's/'}{repo_id}/resolve/{revision}"
    return {name: loopback.get(f"{root}/{name}") for name in names if name != ".gitattributes"}


def titles(loopback: Loopback, repo_id: str, kind: str = "model") -> list[str]:
    return [commit.title for commit in loopback.api.list_repo_commits(repo_id, repo_type=kind)]


# Models.


def test_a_model_repository_holds_all_that_loaders_and_readers_look_for(finished: Path, loopback: Loopback) -> None:
    folder = finished / "ours-seed1"
    done = publish(folder, "me/adder", tag="v1.0.0", dataset_id="me/sums")
    files = there(loopback, "me/adder")
    assert set(files) == CODE | {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "training.json", "recipe.yaml", "results.json", "results.png",
        ".eval_results/addition.yaml",
    }  # fmt: skip
    for name in set(files) - {"README.md", ".eval_results/addition.yaml"}:
        assert files[name] == (folder / name).read_bytes()
    config = json.loads(files["config.json"])
    assert config["architectures"] == ["PositionalForCausalLM"]
    heads = ("", "Model", "ModelForCausalLM", "ModelForSequenceClassification", "ModelForTokenClassification")
    assert {f"Auto{head or 'Config'}" for head in heads} <= config["auto_map"].keys()
    card = ModelCard(files["README.md"].decode())
    assert card.data.datasets == ["me/sums"] and 'from_pretrained("me/adder", trust_remote_code=True)' in card.content
    entries = parse_eval_result_entries(yaml.safe_load(files[".eval_results/addition.yaml"]))
    cells = json.loads(files["results.json"])["runs"][0]["cells"]
    assert [entry.value for entry in entries] == [one["value"] for one in cells]
    assert [result.metric_value for result in card.data.eval_results or []] == [one["value"] for one in cells]
    assert {entry.dataset_id for entry in entries} == {"me/sums"}
    assert titles(loopback, "me/adder") == ["Publish with hf_tasks", "initial commit"]
    assert done.commit == loopback.api.repo_info("me/adder", revision="v1.0.0").sha
    assert done.url == f"{loopback.url}/me/adder"


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x10" * 100), "holds no whole weights"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json' is no JSON"),
        (lambda folder: (folder / "results.json").write_text("{"), r"results\.json' is no JSON"),
        (lambda folder: (folder / "results.json").write_text('{"runs": []}'), "not in the form of results.json"),
        (lambda folder: (folder / "recipe.yaml").write_bytes(b"name: \xff"), "is no UTF-8"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "b.safetensors"}}'
            ),
            "lacks 'b.safetensors'",
        ),
    ],
)
def test_a_model_that_is_not_whole_is_refused(
    folder: Path, loopback: Loopback, break_it: Callable[[Path], object], says: str
) -> None:
    publish_model(folder, "me/adder")
    before = there(loopback, "me/adder")
    break_it(folder)
    with pytest.raises(UserError, match=says):
        publish_model(folder, "me/adder")
    assert there(loopback, "me/adder") == before


def test_the_folder_may_be_the_present_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "recipe.yaml").unlink()
    assert publish_model(".", "me/adder", dry_run=True).upload.card().count("# Sums: ours, seed 1") == 1


def test_files_of_others_in_folders_and_beside_ours_stay(folder: Path, loopback: Loopback) -> None:
    publish_model(folder, "me/adder")
    theirs = ["old/v1/model.safetensors", ".eval_results/mmlu.yaml", "examples/run.py", "train.py"]
    operations = [CommitOperationAdd(path, b"theirs") for path in theirs]
    loopback.api.create_commit("me/adder", operations, commit_message="theirs")
    assert publish_model(folder, "me/adder").deleted == ()
    files = there(loopback, "me/adder")
    assert all(files[path] == b"theirs" for path in theirs)


def test_publishing_again_updates_what_changed_and_drops_what_is_gone(folder: Path, loopback: Loopback) -> None:
    (folder / "extra-00001-of-00002.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    first = publish_model(folder, "me/adder")
    loopback.api.upload_file(path_or_fileobj=b"mine", path_in_repo="NOTES.md", repo_id="me/adder")
    assert publish_model(folder, "me/adder").commit == loopback.api.repo_info("me/adder").sha  # no change, no commit
    (folder / "extra-00001-of-00002.safetensors").unlink()
    (folder / "training.json").write_text('{"note": 1}\n')
    done = publish_model(folder, "me/adder")
    assert done.deleted == ("extra-00001-of-00002.safetensors",)
    files = there(loopback, "me/adder")
    assert "extra-00001-of-00002.safetensors" not in files and files["NOTES.md"] == b"mine"
    assert files["training.json"] == b'{"note": 1}\n'
    assert len(titles(loopback, "me/adder")) == 4 and done.commit != first.commit


def test_branches_and_tags(folder: Path, loopback: Loopback) -> None:
    main_commit = publish_model(folder, "me/adder", tag="v1").commit
    assert publish_model(folder, "me/adder", tag="v1").commit == main_commit  # the same again
    (folder / "training.json").write_text('{"note": 2}\n')
    with pytest.raises(UserError, match="tag 'v1' of 'me/adder' is taken by other files: choose another --tag"):
        publish_model(folder, "me/adder", tag="v1")
    assert loopback.api.repo_info("me/adder").sha == main_commit
    trial = publish_model(folder, "me/adder", branch="trial", tag="v2").commit
    assert loopback.api.repo_info("me/adder").sha == main_commit
    assert loopback.api.repo_info("me/adder", revision="trial").sha == trial
    assert there(loopback, "me/adder", revision="v2")["training.json"] == b'{"note": 2}\n'


def test_a_branch_is_made_although_its_tag_stands(folder: Path, loopback: Loopback) -> None:
    publish_model(folder, "me/adder", tag="v1")
    publish_model(folder, "me/adder", branch="dev", tag="v1")
    assert loopback.api.revision_exists("me/adder", "dev")
    for where, says in (
        ({"branch": "v1"}, "has a tag 'v1'"),
        ({"tag": "dev"}, "has a branch 'dev'"),
        ({"tag": "v 1"}, "'v 1' is no name for a branch or tag"),
        ({"tag": "../x"}, "is no name"),
        ({"tag": "main"}, "cannot be called 'main'"),
    ):
        with pytest.raises(UserError, match=says):
            publish_model(folder, "me/adder", **where)  # type: ignore[arg-type]


def test_what_is_public_is_not_made_private_silently(folder: Path, loopback: Loopback) -> None:
    publish_model(folder, "me/adder")
    with pytest.raises(UserError, match="'me/adder' is public already: make it private"):
        publish_model(folder, "me/adder", private=True)


def test_private_it_is_seen_by_its_owner_alone(folder: Path, loopback: Loopback) -> None:
    publish_model(folder, "me/secret", private=True)
    assert loopback.api.repo_info("me/secret").private
    stranger = type(loopback.api)(endpoint=loopback.url, token=False)
    assert not stranger.repo_exists("me/secret")


def test_a_dry_run_shows_all_and_asks_nothing(
    finished: Path, loopback: Loopback, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["publish", str(finished / "ours-seed1"), "me/adder", "--dry-run"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0 and not loopback.faults.requests
    size = (finished / "ours-seed1" / "model.safetensors").stat().st_size
    assert f"{size:>14,}  model.safetensors" in shown and ".eval_results/addition.yaml" in shown
    assert "would go to model me/adder, with this card:" in shown and "# Sums: ours, seed 1" in shown


def test_what_was_not_evaluated_is_refused_or_says_so(tmp_path: Path, loopback: Loopback) -> None:
    folder = sums_output(sums_recipe(tmp_path), tmp_path / "out") / "ours-seed1"
    with pytest.raises(UserError, match=r"has no results\.json.*hf-tasks evaluate first.*--allow-unevaluated"):
        publish(folder, "me/adder")
    assert not loopback.faults.requests
    publish(folder, "me/adder", allow_unevaluated=True)
    files = there(loopback, "me/adder")
    assert b"**This model was not evaluated.**" in files["README.md"] and "recipe.yaml" in files
    assert not {"results.json", ".eval_results/addition.yaml", "cells.json"} & set(files)


def test_results_of_no_model_of_the_recipe_are_refused(tmp_path: Path) -> None:
    folder = sums_output(sums_recipe(tmp_path), tmp_path / "out", sums_results()) / "ours-seed0"
    results = json.loads((folder / "results.json").read_text())
    for name in ("nope", None, ["ours"]):
        results["runs"][0]["name"] = name
        (folder / "results.json").write_text(json.dumps(results))
        with pytest.raises(
            UserError, match=r"results\.json' is of .*, which is no model of recipe sums: evaluate again$"
        ):
            publish(folder, "me/adder", dry_run=True)


def test_a_model_of_no_recipe_goes_with_a_card_of_its_own(folder: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for name in ("config.json", "model.safetensors"):
        (foreign / name).write_bytes((folder / name).read_bytes())
    for name in ("training_args.bin", "hint_heads.safetensors"):
        (foreign / name).write_bytes(b"stays")
    with pytest.raises(UserError, match=r"has no card: write README\.md"):
        publish_model(foreign, "me/it", allow_unevaluated=True, dry_run=True)
    (foreign / "README.md").write_text("# Mine\n")
    with pytest.raises(UserError, match="names no licence: give its YAML head a line such as license: mit"):
        publish_model(foreign, "me/it", allow_unevaluated=True, dry_run=True)
    (foreign / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    done = publish_model(foreign, "me/it", allow_unevaluated=True, dry_run=True)
    assert [name for name, _ in done.upload.sizes()] == ["README.md", "config.json", "model.safetensors"]
    assert ModelCard(done.upload.card()).data.license == "mit"
    assert "was not evaluated" in done.upload.card() and done.upload.card().endswith("# Mine\n")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("notes.txt", "token = hf_" + "a1B2" * 9, "'notes.txt' looks like it holds a Hugging Face token"),
        ("deploy.pem", "", "'deploy.pem' looks like it holds a file of secrets by its name"),
        ("training.json", "-----BEGIN RSA PRIVATE KEY-----", "'training.json' looks like it holds a private key"),
    ],
)
def test_secrets_stay_here(folder: Path, loopback: Loopback, name: str, content: str, says: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=f"{says}: take it out; nothing was uploaded"):
        publish_model(folder, "me/adder")
    assert not loopback.api.repo_exists("me/adder")


# Adapters.


def test_an_adapter_goes_with_a_base_that_others_have(folder: Path, loopback: Loopback) -> None:
    for name in ("config.json", "model.safetensors", *CODE):
        (folder / name).unlink()
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(folder.parent / "base"), "r": 4})
    )
    save_file({"lora": np.zeros(3)}, folder / "adapter_model.safetensors")
    recipe = (folder / "recipe.yaml").read_text()
    fields = yaml.safe_load(recipe) | {
        "base": str(folder.parent / "base"),
        "models": {"ours": {"method": "lora", "r": 4}},
    }
    del fields["model"]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(fields))
    with pytest.raises(UserError, match=r"is a folder of this machine, .*publish it first, then .*--base"):
        publish_model(folder, "me/adapter")
    with pytest.raises(UserError, match=r"names no licence: .*--license"):  # nobody says what the base's is
        publish_model(folder, "me/adapter", base_id="me/base")
    publish_model(folder, "me/adapter", base_id="me/base", license="llama3.2")
    files = there(loopback, "me/adapter")
    assert json.loads(files["adapter_config.json"]) == {"base_model_name_or_path": "me/base", "r": 4}
    card = ModelCard(files["README.md"].decode())
    assert (card.data.base_model, card.data.library_name, card.data.license) == ("me/base", "peft", "llama3.2")
    assert "It starts from `me/base`." in card.content and "AutoPeftModelForCausalLM" in card.content
    assert yaml.safe_load(files["recipe.yaml"])["base"] == "me/base"
    assert not [name for name, content in files.items() if str(folder.parent).encode() in content]
    with pytest.raises(UserError, match="base_id"):
        publish_model(folder.parent / "ours-seed0", "me/adder", base_id="me/base", dry_run=True)


# Datasets.


def test_a_dataset_repository_holds_shards_provenance_card_and_picture(corpus: Path, loopback: Loopback) -> None:
    publish(corpus, "me/sums", tag="v1.0.0")
    files = there(loopback, "me/sums", "dataset")
    splits = ("data/train", "data/test", "plain/test")
    assert set(files) == {"README.md", "statistics.png"} | {
        f"{split}/{name}" for split in splits for name in ("00000-of-00001.parquet", "provenance.json")
    }
    for name in set(files) - {"README.md"}:
        assert files[name] == (corpus / name).read_bytes()
    card = DatasetCard(files["README.md"].decode())
    assert [config["config_name"] for config in card.data.configs] == ["default", "plain"]
    assert [config.get("default") for config in card.data.configs] == [True, None]
    assert (card.data.license, card.data.size_categories) == ("apache-2.0", "n<1K")
    assert 'load_dataset("me/sums", "default")' in card.content
    assert "    hf-tasks generate addition\n" in card.content
    publish(corpus, "me/sums", tag="v1.0.0")  # the same again
    assert titles(loopback, "me/sums", "dataset") == ["Publish with hf_tasks", "initial commit"]


def test_splits_of_other_tasks_need_a_config_of_their_own(corpus: Path, loopback: Loopback, tmp_path: Path) -> None:
    publish(corpus, "me/sums")
    other = write_dataset(get_task("copy"), tmp_path / "copy", {"test": 20}, name="copies")
    with pytest.raises(UserError, match=r"split 'copies' \(copy\) has not the columns of split 'train' \(addition\)"):
        publish(other, "me/sums")


def test_copies_of_a_split_are_refused(corpus: Path) -> None:
    shutil.copytree(corpus / "data" / "train", corpus / "data" / "train2")
    with pytest.raises(UserError, match=r"'data/train2/provenance.json' in .* is that of split 'train'"):
        publish(corpus, "me/sums", dry_run=True)


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ("configs: [", "YAML head that cannot be read"),
        ("- a", "cannot be read"),
        ("configs: foo", "no list of configs"),
        ("configs: [{config_name: default, data_files: [a.csv]}]", "lists no splits for its config 'default'"),
        ("configs: [{data_dir: foo}]", "lists no splits for its config 'default'"),
        ("license: cc-by-nc-4.0", "has a card of its own"),
        ("configs: []\n---\nMy prose.", "has a card of its own"),
    ],
)
def test_cards_of_others_are_not_replaced(corpus: Path, loopback: Loopback, head: str, says: str) -> None:
    loopback.api.create_repo("me/theirs", repo_type="dataset")
    content = f"---\n{head}\n---\n" if "prose" not in head else f"---\n{head}\n"
    operation = CommitOperationAdd("README.md", content.encode())
    loopback.api.create_commit("me/theirs", [operation], commit_message="theirs", repo_type="dataset")
    with pytest.raises(UserError, match=says):
        publish(corpus, "me/theirs")
    assert there(loopback, "me/theirs", "dataset") == {"README.md": content.encode()}


def test_configs_of_others_stay_as_they_are_and_their_splits_of_our_names_go(corpus: Path, loopback: Loopback) -> None:
    loopback.api.create_repo("me/theirs", repo_type="dataset")
    shard = (corpus / "plain/test/00000-of-00001.parquet").read_bytes()
    head = (
        "configs: [{config_name: x, data_files: a.csv}, {config_name: plain, data_files: "
        "[{split: test, path: plain/test-*}, {split: more, path: plain/more-*}]}]"
    )
    theirs = {"README.md": f"---\n{head}\n---\n".encode(), "a.csv": b"1", "plain/test-00000-of-00001.parquet": shard}
    operations = [CommitOperationAdd(path, content) for path, content in theirs.items()]
    loopback.api.create_commit("me/theirs", operations, commit_message="theirs", repo_type="dataset")
    publish(corpus, "me/theirs")
    files = there(loopback, "me/theirs", "dataset")
    assert "plain/test-00000-of-00001.parquet" not in files and files["a.csv"] == b"1"
    configs = {
        config["config_name"]: config["data_files"] for config in DatasetCard(files["README.md"].decode()).data.configs
    }
    assert configs["x"] == "a.csv"
    assert [entry["split"] for entry in configs["plain"]] == ["test", "more"]


def test_a_later_split_is_added_and_those_that_stand_stay(corpus: Path, loopback: Loopback, tmp_path: Path) -> None:
    publish(corpus, "me/sums")
    longer = get_task("addition", digits=(9, 9), reverse="answer", pad=True)
    write_dataset(longer, tmp_path / "more", {"test": 25}, name="test_9")
    publish(tmp_path / "more", "me/sums")
    files = there(loopback, "me/sums", "dataset")
    assert files["data/train/00000-of-00001.parquet"] == (corpus / "data/train/00000-of-00001.parquet").read_bytes()
    card = DatasetCard(files["README.md"].decode())
    names = {c["config_name"]: [e["split"] for e in c["data_files"]] for c in card.data.configs}
    assert names == {"default": ["train", "test", "test_9"], "plain": ["test"]}
    assert "395 rows." in card.content and "| default | test_9 | 25 |" in card.content


def test_a_split_made_anew_leaves_no_old_shards(tmp_path: Path, loopback: Loopback, monkeypatch: Any) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("hf_tasks.dataset.SHARD_BYTES", 1)
        patch.setattr("hf_tasks.dataset.BATCH_BYTES", 1)
        write_dataset(SUMS, tmp_path / "old", {"train": 10_000})
    publish(tmp_path / "old", "me/sums")
    write_dataset(SUMS, tmp_path / "new", {"train": 50}, seed=1)
    publish(tmp_path / "new", "me/sums")
    shards = [name for name in there(loopback, "me/sums", "dataset") if name.endswith(".parquet")]
    assert shards == ["data/train/00000-of-00001.parquet"]


def test_splits_of_others_stay_in_the_card(corpus: Path, loopback: Loopback) -> None:
    publish(corpus, "me/sums")
    card = DatasetCard(there(loopback, "me/sums", "dataset")["README.md"].decode())
    foreign = {"split": "extra", "path": "data/extra-*"}
    card.data.configs[0]["data_files"].append(foreign)
    card.data.configs.append({"config_name": "theirs", "data_files": [{"split": "x", "path": "theirs/x-*"}]})
    loopback.api.upload_file(
        path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id="me/sums", repo_type="dataset"
    )
    publish(corpus, "me/sums")
    configs = DatasetCard(there(loopback, "me/sums", "dataset")["README.md"].decode()).data.configs
    assert [config["config_name"] for config in configs] == ["default", "plain", "theirs"]
    assert configs[0]["data_files"][-1] == foreign and sum(bool(config.get("default")) for config in configs) == 1


def test_splits_that_share_a_row_are_refused(tmp_path: Path, loopback: Loopback) -> None:
    write_dataset(SUMS, tmp_path / "sums", {"test": 40})
    publish(tmp_path / "sums", "me/sums")
    before = there(loopback, "me/sums", "dataset")
    again = write_dataset(SUMS, tmp_path / "again", {"test": 40}, seed=1, name="more")  # the same problems, drawn anew
    with pytest.raises(UserError, match=r"splits 'test' and 'more' of config 'default' share a row, '.*=': generate"):
        publish(again, "me/sums")  # the other one is on the Hub
    assert there(loopback, "me/sums", "dataset") == before
    write_dataset(SUMS, tmp_path / "sums", {"test": 40}, seed=1, name="more")
    with pytest.raises(UserError, match="splits 'test' and 'more' of config 'default' share a row"):
        publish(tmp_path / "sums", "me/other")


def test_splits_of_others_are_compared_too(corpus: Path, loopback: Loopback, tmp_path: Path) -> None:
    write_dataset(SUMS, tmp_path / "one", {"train": 10})
    publish(tmp_path / "one", "me/sums")
    card = DatasetCard(there(loopback, "me/sums", "dataset")["README.md"].decode())
    card.data.configs[0]["data_files"].append({"split": "extra", "path": "data/extra-*"})
    theirs = {
        "README.md": str(card).encode(),
        "data/extra-00000-of-00001.parquet": (corpus / "data/test/00000-of-00001.parquet").read_bytes(),
    }
    operations = [CommitOperationAdd(path, content) for path, content in theirs.items()]
    loopback.api.create_commit("me/sums", operations, commit_message="theirs", repo_type="dataset")
    with pytest.raises(UserError, match="splits 'test' and 'extra' of config 'default' share a row"):
        publish(corpus, "me/sums")


def test_a_broken_or_missing_shard_is_refused(corpus: Path) -> None:
    shard = corpus / "data/train/00000-of-00001.parquet"
    content = shard.read_bytes()
    shard.write_bytes(content[:-20])
    with pytest.raises(UserError, match=r"is no whole parquet file .*: delete its folder, generate again"):
        publish_dataset(corpus, "me/sums", dry_run=True)
    shard.unlink()
    with pytest.raises(UserError, match="holds 0 rows, but was made with 300"):
        publish_dataset(corpus, "me/sums", dry_run=True)


# Metrics.


def test_a_metric_goes_to_a_space_with_what_it_imports(loopback: Loopback) -> None:
    publish(METRICS / "digit_accuracy.py", "me/digit_accuracy")
    files = there(loopback, "me/digit_accuracy", "space")
    assert set(files) == {"digit_accuracy.py", "functions.py", "README.md", "requirements.txt"}
    head = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert (head["license"], head["sdk"]) == ("apache-2.0", "static")
    assert publish(METRICS / "digit_accuracy.py", "me/digit_accuracy").deleted == ()
    with pytest.raises(UserError, match=r"holds no evaluate\.Metric"):
        publish_metric(METRICS / "functions.py", "me/functions")
    with pytest.raises(UserError, match="publish it as USER/digit_accuracy"):
        publish_metric(METRICS / "digit_accuracy.py", "me/accuracy")


# Mistakes and faults.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{}", "adder"], "'adder' is no repository; give USER/NAME"),
        (["{}", "me/a b"], "'me/a b' is no repository"),
        (["{}/..", "me/adder"], "is neither a model nor a dataset; publish one of its models: ours-seed0, "),
        (["nowhere", "me/adder"], "'nowhere' is no folder to publish"),
        (["{}", "you/adder"], "the Hub did not take 'you/adder': .*403.*nothing of it is there; check"),
    ],
)
def test_mistakes_are_one_line(
    finished: Path, loopback: Loopback, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["publish", *(argument.format(finished / "ours-seed1") for argument in arguments)])
    error = capsys.readouterr().err.strip()
    assert caught.value.code == 2 and len(error.splitlines()) == 1
    assert re.search(says, error), error


def test_options_of_models_are_for_models(corpus: Path) -> None:
    with pytest.raises(UserError, match="is no model, and base_id is for models"):
        publish(corpus, "me/sums", base_id="me/base")


@pytest.mark.parametrize("token", ["hf_wrong", None])
def test_a_wrong_token_is_one_line(
    finished: Path, loopback: Loopback, monkeypatch: pytest.MonkeyPatch, token: str | None, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"did not take 'me/adder': .*401.*the token \(hf auth login, or HF_TOKEN\)"):
        publish_model(finished / "ours-seed1", "me/adder")
    assert not loopback.api.repo_exists("me/adder")


CALLS = {
    "create": ("POST", "/api/repos/create"),
    "describe": ("GET", "/api/models/me/adder"),
    "card": ("POST", "/api/validate-yaml"),
    "preupload": ("POST", "/preupload/"),
    "batch": ("POST", "/info/lfs/objects/batch"),
    "upload": ("PUT", "/lfs/"),
    "commit": ("POST", "/commit/"),
    "tag": ("POST", "/tag/"),
}
FAULTS: dict[str, dict[str, Any]] = {"500": {"status": 500}, "cut": {"cut_upload": 1}, "late": {"delay": 0.5}}


def expected(folder: Path) -> dict[str, bytes | None]:
    return {
        path: content if isinstance(content, bytes) else content.read_bytes()
        for path, content in publish_model(folder, "me/adder", dry_run=True).upload.files.items()
    }


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_is_retried_or_reported_and_the_same_again_finishes(
    finished: Path, loopback: Loopback, call: str, fault: str
) -> None:
    folder, (method, path) = finished / "ours-seed1", CALLS[call]
    loopback.faults.add(method, path, times=1, **FAULTS[fault])
    try:
        publish_model(folder, "me/adder", tag="v1")
    except UserError as error:
        assert fault != "late" and re.search("did not take 'me/adder'.*then give the same command again", str(error))
        if loopback.api.repo_exists("me/adder"):
            assert set(there(loopback, "me/adder")) in (set(), set(expected(folder)))
        publish_model(folder, "me/adder", tag="v1")
    assert not any(fault.times for fault in loopback.faults.pending)
    assert there(loopback, "me/adder", revision="v1") == there(loopback, "me/adder") == expected(folder)
    assert titles(loopback, "me/adder") == ["Publish with hf_tasks", "initial commit"]


@pytest.mark.parametrize("call", CALLS)
def test_a_lasting_fault_leaves_nothing_half_published_and_says_what_is_there(
    finished: Path, loopback: Loopback, call: str
) -> None:
    folder, (method, path) = finished / "ours-seed1", CALLS[call]
    loopback.faults.add(method, path, times=1000, status=503)
    with pytest.raises(UserError) as caught:
        publish_model(folder, "me/adder", tag="v1")
    said = str(caught.value)
    assert len(said.splitlines()) == 1 and "did not take 'me/adder'" in said and "same command again" in said
    loopback.faults.pending.clear()
    names = set(there(loopback, "me/adder")) if loopback.api.repo_exists("me/adder") else None
    if call == "tag":
        assert names == set(expected(folder)) and "all its files are there, but not the tag" in said
    elif names is None:
        assert "nothing of it is there" in said or "nothing was uploaded" in said
    else:
        assert names == set() and f"{len(expected(folder))} files of {len(expected(folder))} are not there" in said
        assert "but not the tag" not in said
    publish_model(folder, "me/adder", tag="v1")
    assert there(loopback, "me/adder", revision="v1") == expected(folder)


DATASET_CALLS = {
    "describe": ("GET", "/api/datasets/me/sums"),
    "read": ("GET", "/resolve/"),
    "list": ("GET", "/tree/"),
    "upload": ("PUT", "/lfs/"),
    "commit": ("POST", "/commit/"),
}


@pytest.mark.parametrize("call", DATASET_CALLS)
@pytest.mark.parametrize("times", [1, 1000], ids=["once", "lasting"])
def test_a_split_that_is_added_arrives_whole_or_not_at_all(
    loopback: Loopback, tmp_path: Path, call: str, times: int
) -> None:
    first = write_dataset(SUMS, tmp_path / "first", {"train": 60})
    publish(first, "me/sums")
    before = there(loopback, "me/sums", "dataset")
    second = write_dataset(SUMS, tmp_path / "second", {"test": 20})
    method, path = DATASET_CALLS[call]
    loopback.faults.add(method, path, times=times, status=502)
    try:  # huggingface_hub retries some calls and not others; a fault that lasts must be reported
        publish(second, "me/sums")
        assert times == 1
    except UserError as error:
        assert re.search("did not take 'me/sums': .*then give the same command again", str(error))
        loopback.faults.pending.clear()
        assert there(loopback, "me/sums", "dataset") == before
        publish(second, "me/sums")
    after = there(loopback, "me/sums", "dataset")
    assert after.items() >= {name: content for name, content in before.items() if "/" in name}.items()
    assert after["data/test/provenance.json"] == (second / "data/test/provenance.json").read_bytes()
    assert len(titles(loopback, "me/sums", "dataset")) == 3


def test_a_large_file_sent_before_the_fault_is_not_sent_twice(finished: Path, loopback: Loopback) -> None:
    loopback.faults.add("POST", "/commit/", times=1000, status=503)
    with pytest.raises(UserError, match="are not there"):
        publish_model(finished / "ours-seed1", "me/adder")
    loopback.faults.pending.clear()
    sent = loopback.faults.count("PUT", "/lfs/")
    publish_model(finished / "ours-seed1", "me/adder")
    assert sent > 0 and loopback.faults.count("PUT", "/lfs/") == sent


def test_an_answer_that_is_lost_after_the_commit_makes_no_second_commit(finished: Path, loopback: Loopback) -> None:
    loopback.faults.add("POST", "/commit/", cut_download=1)
    publish_model(finished / "ours-seed1", "me/adder")
    assert loopback.faults.count("POST", "/commit/") == 1
    assert titles(loopback, "me/adder") == ["Publish with hf_tasks", "initial commit"]


def test_a_server_that_is_gone_is_one_line(finished: Path, loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"did not take 'me/adder': .*refused.*nothing was uploaded"):
        publish_model(finished / "ours-seed1", "me/adder")


def test_racing_commits_lose_nothing(corpus: Path, loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody adds a split to the card between our look at the repository and our commit."""
    publish(corpus, "me/sums")
    real, raced = upload.Repository.publish, []

    def publish_late(self: Any, *arguments: Any) -> Any:
        if len(raced) < 2:
            raced.append(True)
            theirs = DatasetCard(there(loopback, "me/sums", "dataset")["README.md"].decode())
            entry = {"split": f"theirs{len(raced)}", "path": f"data/theirs{len(raced)}-*"}
            theirs.data.configs[0]["data_files"].append(entry)
            operation = CommitOperationAdd("README.md", str(theirs).encode())
            loopback.api.create_commit("me/sums", [operation], commit_message="theirs", repo_type="dataset")
        return real(self, *arguments)

    monkeypatch.setattr(upload.Repository, "publish", publish_late)
    longer = get_task("addition", digits=(8, 8), reverse="answer", pad=True)
    write_dataset(longer, corpus, {"test": 20}, name="test_8")
    publish(corpus, "me/sums")
    card = DatasetCard(there(loopback, "me/sums", "dataset")["README.md"].decode())
    assert [entry["split"] for entry in card.data.configs[0]["data_files"]] == [
        "train", "test", "test_8", "theirs1", "theirs2",
    ]  # fmt: skip


def test_a_model_that_raced_is_not_mixed_with_another(
    folder: Path, loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody commits another version's weights between our look at the repository and our commit."""
    publish_model(folder, "me/adder")
    real, raced = upload.Repository._commit, []

    def commit(self: Any, *arguments: Any) -> str:
        if not raced:
            raced.append(True)
            operation = CommitOperationAdd("model-00001-of-00002.safetensors", b"theirs")
            loopback.api.create_commit("me/adder", [operation], commit_message="theirs")
        return real(self, *arguments)

    monkeypatch.setattr(upload.Repository, "_commit", commit)
    (folder / "training.json").write_text('{"note": 3}\n')
    assert publish_model(folder, "me/adder").deleted == ("model-00001-of-00002.safetensors",)
    assert there(loopback, "me/adder") == expected(folder)


def test_two_at_once_both_arrive(corpus: Path, loopback: Loopback, tmp_path: Path) -> None:
    publish(corpus, "me/sums")
    folders = []
    for digits in (7, 8, 9):
        task = get_task("addition", digits=(digits, digits), reverse="answer", pad=True)
        folders.append(write_dataset(task, tmp_path / str(digits), {"test": 20}, name=f"test_{digits}"))
    threads = [threading.Thread(target=publish, args=(folder, "me/sums")) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    card = DatasetCard(there(loopback, "me/sums", "dataset")["README.md"].decode())
    names = [entry["split"] for entry in card.data.configs[0]["data_files"]]
    assert names == ["train", "test", "test_7", "test_8", "test_9"]


def test_others_who_never_stop_are_reported(finished: Path, loopback: Loopback) -> None:
    loopback.faults.add("POST", "/commit/", times=1000, status=412)
    with pytest.raises(UserError, match="changed by others 5 times in a row; nothing was published, try again later"):
        publish_model(finished / "ours-seed1", "me/adder")
