"""Files of episodes: what is written comes back, is mapped, grows by episodes, and is refused when it is not sound."""

import contextlib
import hashlib
import json
import pickle

import numpy as np
import pytest
import torch
from data.offline.episodes_tool import LENGTHS, TERMINATED, columns, parts, write
from safetensors.torch import load_file, save_file

from nervex.data.offline import FolderWriter, dataset_writer, folder, open_dataset
from nervex.torch_utils.state_files import seal
from nervex.utils.errors import DatasetError
from nervex.utils.files import FileLayer


def check(data):
    """Every number of the episodes is where it belongs."""
    assert data.length.tolist() == list(LENGTHS) and data.terminated.tolist() == list(TERMINATED)
    assert data.episode_return.tolist() == [(k + 1) * n for k, n in enumerate(LENGTHS)]
    for number, length in enumerate(LENGTHS):
        episode = data.episode(number)
        for name, column in columns(number, length).items():
            assert torch.equal(episode[name], torch.from_numpy(column)), name
        last = torch.arange(length) == length - 1
        assert torch.equal(episode["terminated"], last & TERMINATED[number])
        assert torch.equal(episode["truncated"], last & (not TERMINATED[number]))


@pytest.mark.parametrize("name", ["folder", "file.hdf5", "file.h5"])
def test_what_is_written_comes_back(tmp_path, name):
    check(write(tmp_path / name))


def test_several_files_are_one_data_set(tmp_path):
    data = parts(tmp_path / "set")
    assert len(list((tmp_path / "set").glob("part_*"))) == 4
    check(data)


def test_columns_of_several_parts_and_further_ones(tmp_path):
    for name, more in (("folder", {"logp": np.zeros(3, np.float32)}), ("file.hdf5", {})):
        obs = {"a": {"b": np.arange(8.0).reshape(4, 2)}, "image": np.arange(4, dtype=np.uint8)}
        with dataset_writer(tmp_path / name) as writer:
            writer.add({**columns(0, 3, **more), "obs": obs}, terminated=True)
        episode = open_dataset(tmp_path / name).episode(0)
        assert torch.equal(episode["obs"]["a"]["b"], torch.from_numpy(obs["a"]["b"]))
        assert episode["obs"]["image"].dtype == torch.uint8
        assert set(episode) == {"obs", "action", "reward", "terminated", "truncated", *more}


def test_files_are_mapped_and_another_process_opens_them_again(tmp_path):
    data = write(tmp_path / "set")
    with open("/proc/self/maps") as file:
        assert str(tmp_path / "set" / "part_00000.safetensors") in file.read()
    assert len(pickle.dumps(data)) < 1000
    check(pickle.loads(pickle.dumps(data)))
    check(pickle.loads(pickle.dumps(write(tmp_path / "file.hdf5"))))


def test_episodes_are_appended(tmp_path):
    first = write(tmp_path / "set", LENGTHS[:2], info={"by": "me"})
    with FolderWriter(tmp_path / "set", append=True) as writer:
        for number in (2, 3):
            writer.add(columns(number, LENGTHS[number]), TERMINATED[number])
    data = open_dataset(tmp_path / "set")
    check(data)
    assert data.digest != first.digest and data.info == {"by": "me"}
    with pytest.raises(DatasetError, match=r"episode 4: 'action' is float64 \[\]; expected int64 \[\]"):
        with FolderWriter(tmp_path / "set", append=True) as writer:
            writer.add(columns(4, 2, action=np.zeros(2)), True)
    check(open_dataset(tmp_path / "set"))


def test_one_writer_appends_at_a_time(tmp_path):
    write(tmp_path / "set", LENGTHS[:2])
    with FolderWriter(tmp_path / "set", append=True) as writer:
        writer.add(columns(2, LENGTHS[2]), TERMINATED[2])
        with pytest.raises(DatasetError, match=r"another writer is adding episodes to .*set; wait until it has ended"):
            FolderWriter(tmp_path / "set", append=True)
    for broken in (True, False):  # neither an error nor an end keeps the next one out
        with contextlib.suppress(ZeroDivisionError):
            with FolderWriter(tmp_path / "set", append=True) as writer:
                writer.add(columns(3, LENGTHS[3]), TERMINATED[3])
                1 / (not broken)
    check(open_dataset(tmp_path / "set"))


class FullDisk(FileLayer):
    """A disk that takes so many writes."""

    def __init__(self, room):
        self.room = room

    def write(self, file, data):
        self.room -= 1
        if self.room < 0:
            raise OSError(28, "No space left on device")
        super().write(file, data)


@pytest.mark.parametrize("room", range(5))
def test_a_full_disk_leaves_nothing_or_what_was_there(tmp_path, room):
    def add(**kwargs):
        with FolderWriter(tmp_path / "set", files=FullDisk(room), **kwargs) as writer:
            writer.add(columns(9, 2), True)

    with pytest.raises(DatasetError, match="No space left"):
        add()
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "set")
    with pytest.raises(DatasetError, match="No space left"):
        add(append=True)
    check(open_dataset(tmp_path / "set"))


def test_an_error_on_the_way_leaves_nothing(tmp_path):
    for name in ("set", "file.hdf5"):
        with pytest.raises(ZeroDivisionError):
            with dataset_writer(tmp_path / name) as writer:
                writer.add(columns(0, 2), True)
                1 / 0
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(tmp_path):
    for name in ("set", "file.hdf5"):
        write(tmp_path / name)
        with pytest.raises(DatasetError, match="exists already"):
            dataset_writer(tmp_path / name)


@pytest.mark.parametrize("name", ["set", "file.hdf5"])
def test_no_empty_data_set_is_made(tmp_path, name):
    with pytest.raises(DatasetError, match="no episode was added"):
        dataset_writer(tmp_path / name).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"action": np.zeros(4)}, "episode 0 is ragged: 'action' has 4 rows, and 3 rewards ask for 3"),
        ({"obs": np.zeros((3, 1))}, "'obs' has 3 rows, and 3 rewards ask for 4 .the observation after the last"),
        ({"reward": np.zeros(0)}, "episode 0 has no steps"),
        ({"reward": [1.0, 1.0, 1.0]}, "'reward' is a list; expected one array"),
        ({"reward": np.zeros((3, 1))}, r"'reward' has shape \[3, 1\]"),
        ({"obs": np.full((4, 1), np.nan)}, "'obs' holds NaN or infinity"),
        ({"action": np.array(["left", "right", "left"])}, "'action' holds <U5; expected booleans or numbers"),
        (
            {"obs": np.zeros((4, 1), np.longdouble)},
            "'obs' holds float128; expected booleans or numbers of up to 64 bits",
        ),
        ({"obs": torch.zeros(4, 1, dtype=torch.bfloat16)}, "episode 0 holds what is no column"),
        ({"../other": np.zeros(3)}, "episode 0 holds what is no column: the name '../other'"),
        ({3: np.zeros(3)}, "episode 0 holds what is no column"),
    ],
)
def test_ragged_and_odd_episodes(tmp_path, changed, message):
    for name in ("set", "file.hdf5"):
        with pytest.raises(DatasetError, match=message), dataset_writer(tmp_path / name) as writer:
            writer.add({**columns(0, 3), **changed}, True)


@pytest.mark.parametrize("name", ["set", "file.hdf5"])
def test_foreign_byte_order_is_turned(tmp_path, name):
    with dataset_writer(tmp_path / name) as writer:
        writer.add({**columns(0, 3), "reward": np.array([1.0, 2.0, 3.0], dtype=">f4")}, True)
    assert open_dataset(tmp_path / name).episode(0)["reward"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("name", ["set", "file.hdf5"])
def test_a_place_where_nothing_can_be_made(tmp_path, name):
    (tmp_path / "file").write_text("here")
    with pytest.raises(DatasetError, match="cannot make the data set"):
        dataset_writer(tmp_path / "file" / name)


def test_a_missing_column(tmp_path):
    with (
        pytest.raises(DatasetError, match="episode 0 has no column 'action'"),
        dataset_writer(tmp_path / "s") as writer,
    ):
        writer.add({k: v for k, v in columns(0, 3).items() if k != "action"}, True)


class TestDamage:
    """Whatever happened to our own files, it is one sentence, and nothing is executed."""

    def test_a_flipped_bit(self, tmp_path):
        write(tmp_path / "set")
        for name in ("part_00000.safetensors", "manifest.json"):
            file = tmp_path / "set" / name
            good = file.read_bytes()
            bad = bytearray(good)
            bad[-3] ^= 4
            file.write_bytes(bytes(bad))
            with pytest.raises(DatasetError, match=f"{name} is damaged"):
                open_dataset(tmp_path / "set")
            file.write_bytes(good)
        check(open_dataset(tmp_path / "set"))

    def test_a_part_of_nan_with_right_digests(self, tmp_path):
        write(tmp_path / "set")
        part, manifest = tmp_path / "set" / "part_00000.safetensors", tmp_path / "set" / "manifest.json"
        tensors = load_file(part)
        tensors["reward"][-1] = float("nan")
        save_file(tensors, part)
        content = json.loads(manifest.read_text())
        del content["sha256"]
        data = part.read_bytes()
        content["parts"][0] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        manifest.write_bytes(seal(content))
        with pytest.raises(DatasetError, match=r"part_00000\.safetensors: 'reward' holds NaN or infinity"):
            open_dataset(tmp_path / "set")

    def test_an_edited_manifest(self, tmp_path):
        write(tmp_path / "set")
        manifest = tmp_path / "set" / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"truncated": [', '"truncated":  [', 1))
        with pytest.raises(DatasetError, match=r"manifest\.json is damaged or was edited: its digest does not match"):
            open_dataset(tmp_path / "set")

    def test_truncated_and_missing_files(self, tmp_path):
        write(tmp_path / "set")
        file = tmp_path / "set" / "part_00000.safetensors"
        file.write_bytes(file.read_bytes()[:-10])
        with pytest.raises(DatasetError, match="bytes, its manifest says"):
            open_dataset(tmp_path / "set", verify=False)
        file.unlink()
        with pytest.raises(DatasetError, match="the data set is not complete"):
            open_dataset(tmp_path / "set")

    def test_other_folders_and_versions(self, tmp_path):
        with pytest.raises(DatasetError, match=r"is no data set of nerveX: cannot read its manifest\.json"):
            open_dataset(tmp_path)
        manifest = tmp_path / "manifest.json"
        for content, message in (
            (b"[]", "is damaged, or of something else"),
            (seal({"kind": "checkpoint", "version": 1}), "another kind of folder"),
            (seal({"kind": folder.KIND, "version": 2}), "has version 2, this nerveX reads version 1"),
        ):
            manifest.write_bytes(content)
            with pytest.raises(DatasetError, match=message):
                open_dataset(tmp_path)

    def test_names_that_lead_elsewhere(self, tmp_path):
        write(tmp_path / "set")
        manifest = tmp_path / "set" / "manifest.json"
        content = json.loads(manifest.read_text())
        del content["sha256"]
        content["parts"][0]["file"] = "../part_00000.safetensors"
        manifest.write_bytes(seal(content))
        with pytest.raises(DatasetError, match="which no data set has; do not use it"):
            open_dataset(tmp_path / "set")

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("file", 3),
            ("sha256", None),
            ("bytes", "9"),
            ("length", [8, -1, 5, 2]),
            ("length", [0, 7, 5, 2]),
            ("length", [2**63, 1, 1, 1]),
            ("length", "ab"),
            ("terminated", [True]),
            ("terminated", [1, 0, 1, 0]),
        ],
    )
    def test_a_manifest_that_someone_wrote(self, tmp_path, key, value):
        """Its own digest is right, so that it is the form that must be looked at."""
        write(tmp_path / "set")
        manifest = tmp_path / "set" / "manifest.json"
        content = json.loads(manifest.read_text())
        del content["sha256"]
        content["parts"][0][key] = value
        manifest.write_bytes(seal(content))
        with pytest.raises(DatasetError, match="is no manifest of nerveX"):
            open_dataset(tmp_path / "set")
        with pytest.raises(DatasetError, match="is no manifest of nerveX"):
            FolderWriter(tmp_path / "set", append=True)

    @pytest.mark.parametrize("changed", [{"columns": [1]}, {"columns": {"obs": 3}}, {"parts": None}, {"info": None}])
    def test_a_manifest_of_another_form(self, tmp_path, changed):
        write(tmp_path / "set")
        manifest = tmp_path / "set" / "manifest.json"
        content = json.loads(manifest.read_text()) | changed
        del content["sha256"]
        manifest.write_bytes(seal(content))
        with pytest.raises(DatasetError, match="is no manifest of nerveX"):
            open_dataset(tmp_path / "set")

    def test_wrong_numbers_of_rows(self, tmp_path):
        write(tmp_path / "set")
        manifest = tmp_path / "set" / "manifest.json"
        content = json.loads(manifest.read_text())
        del content["sha256"]
        content["parts"][0]["length"][0] += 1
        manifest.write_bytes(seal(content))
        with pytest.raises(DatasetError, match="is ragged"):
            open_dataset(tmp_path / "set")


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


class TestForeignFiles:
    def test_a_pickled_array(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
        with pytest.raises(DatasetError, match="is a NumPy file; expected a folder"):
            open_dataset(tmp_path / "a.npy")

    def test_a_pickle(self, tmp_path):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(DatasetError, match="is a pickle, which can run code when it is opened; it was not opened"):
            open_dataset(tmp_path / "a.pkl")

    def test_nothing_and_noise(self, tmp_path):
        with pytest.raises(DatasetError, match="there is no data set"):
            open_dataset(tmp_path / "none")
        (tmp_path / "noise").write_bytes(b"noise")
        with pytest.raises(DatasetError, match="a file of an unknown kind"):
            open_dataset(tmp_path / "noise")
