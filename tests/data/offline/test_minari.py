"""HDF5 files of Minari's layout: what is read, and what is refused."""

import re
import subprocess
import sys

import h5py
import numpy as np
import pytest
from data.offline.episodes_tool import LENGTHS, columns, write

from nervex.data.offline import MinariWriter, minari, open_dataset
from nervex.utils.errors import DatasetError, MissingExtraError


class TestMinari:
    """HDF5 files of the documented layout, written by hand, and what is not that layout."""

    def by_hand(self, path, **changed):
        with h5py.File(path, "w") as file:
            for number in (0, 1, 10):  # not in the order of text
                group = file.create_group(f"episode_{number}")
                group.attrs["id"], group.attrs["total_steps"] = number, 2
                members = {
                    "observations": 100.0 * number + np.arange(3)[:, None], "actions": np.zeros((2, 1), np.float32),
                    "rewards": np.ones(2), "terminations": np.array([0, number == 1], bool),
                    "truncations": np.array([0, number == 0], bool), **changed,
                }  # fmt: skip
                for name, value in members.items():
                    if value is not None:
                        group[name] = value

    def test_by_hand(self, tmp_path):
        self.by_hand(tmp_path / "a.hdf5", infos=None)
        data = open_dataset(tmp_path / "a.hdf5")
        assert data.terminated.tolist() == [False, True, False]  # the last one was cut off by the end of the recording
        assert [int(data.episode(k)["obs"][-1]) for k in range(3)] == [2, 102, 1002]

    def test_a_folder_of_minari(self, tmp_path):
        (tmp_path / "set" / "data").mkdir(parents=True)
        self.by_hand(tmp_path / "set" / "data" / "main_data.hdf5")
        assert open_dataset(tmp_path / "set").episode_num == 3

    def test_attributes(self, tmp_path):
        write(tmp_path / "a.hdf5", info={"env": "Counter"})
        with h5py.File(tmp_path / "a.hdf5") as file:
            assert (file.attrs["total_episodes"], file.attrs["total_steps"]) == (4, sum(LENGTHS))
            assert dict(file["episode_1"].attrs) == {"id": 1, "total_steps": 5} and file.attrs["env"] == "Counter"
            assert set(file["episode_1"]) == {"observations", "actions", "rewards", "terminations", "truncations"}
            assert file["episode_1/observations"].shape == (6, 1)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"actions": np.zeros((3, 1))}, "episode_0 is ragged: 'action' has 3 rows, and 2 rewards ask for 2"),
            ({"observations": np.zeros((2, 1))}, "'obs' has 2 rows, and 2 rewards ask for 3"),
            ({"terminations": np.zeros(3, bool)}, r"is ragged: 'terminations' has shape \[3\]"),
            ({"terminations": np.array([True, False])}, "'terminations' is true at step 0 and the episode goes on"),
            ({"rewards": None}, "episode_0 has no 'rewards'"),
            ({"rewards": np.dtype("f4")}, "'/episode_0/rewards' is no plain array of numbers"),
            ({"rewards": h5py.Empty("f4")}, "'/episode_0/rewards' is no plain array of numbers"),
            ({"observations": np.zeros((3, 1), np.longdouble)}, "'obs' holds float128; expected"),
            ({"observations": np.full((3, 1), np.inf)}, "'obs' holds NaN or infinity"),
            ({"actions": h5py.ExternalLink("/etc/passwd", "/x")}, "'actions' is a link to another place or file"),
        ],
    )
    def test_wrong_episodes(self, tmp_path, changed, message):
        self.by_hand(tmp_path / "a.hdf5", **changed)
        with pytest.raises(DatasetError, match=message):
            open_dataset(tmp_path / "a.hdf5")

    def test_objects_are_not_read(self, tmp_path):
        self.by_hand(tmp_path / "a.hdf5", actions=None)
        with h5py.File(tmp_path / "a.hdf5", "a") as file:
            file["episode_0"].create_dataset("actions", data=["a", "b"], dtype=h5py.string_dtype())
        with pytest.raises(DatasetError, match="is no plain array of numbers in this file; it was not read"):
            open_dataset(tmp_path / "a.hdf5")

    def test_an_array_that_is_larger_than_any_memory(self, tmp_path):
        self.by_hand(tmp_path / "a.hdf5", rewards=None)
        with h5py.File(tmp_path / "a.hdf5", "a") as file:
            file["episode_0"].create_dataset("rewards", shape=(10**12,), dtype="f4", chunks=(1000,))
        with pytest.raises(DatasetError, match="claims 4,000,000,000,000 bytes, of which the file holds 0"):
            open_dataset(tmp_path / "a.hdf5")

    def test_an_episode_that_is_no_group(self, tmp_path):
        with h5py.File(tmp_path / "a.hdf5", "w") as file:
            file["episode_0"] = np.zeros(3)
        with pytest.raises(DatasetError, match="episode_0 is no group"):
            open_dataset(tmp_path / "a.hdf5")

    def test_flipped_bits(self, tmp_path):
        """h5py answers damage with errors of many types; here they are of one, or the flip is in what nobody reads."""
        self.by_hand(tmp_path / "a.hdf5")
        good = (tmp_path / "a.hdf5").read_bytes()
        rng = np.random.default_rng(0)
        refused = 0
        for _ in range(150):
            bad = bytearray(good)
            for at in rng.integers(0, 1600, size=3):
                bad[at] ^= 1 << int(rng.integers(8))
            (tmp_path / "b.hdf5").write_bytes(bytes(bad))
            try:
                open_dataset(tmp_path / "b.hdf5")
            except DatasetError:
                refused += 1
        assert refused > 50

    def test_other_layouts(self, tmp_path):
        with h5py.File(tmp_path / "flat.hdf5", "w") as file:
            for name in ("observations", "actions", "rewards", "terminals", "timeouts"):
                file[name] = np.zeros(3)
        with pytest.raises(DatasetError, match=r"has D4RL's flat layout .*lacks the observations after the last steps"):
            open_dataset(tmp_path / "flat.hdf5")
        with h5py.File(tmp_path / "other.hdf5", "w") as file:
            file["weights"] = np.zeros(3)
        with pytest.raises(DatasetError, match=r"holds \['weights'\] and no groups episode_0"):
            open_dataset(tmp_path / "other.hdf5")

    def test_a_truncated_file(self, tmp_path):
        self.by_hand(tmp_path / "a.hdf5")
        content = (tmp_path / "a.hdf5").read_bytes()
        (tmp_path / "a.hdf5").write_bytes(content[: len(content) // 2])
        with pytest.raises(DatasetError, match=r"cannot read .* as an HDF5 file"):
            open_dataset(tmp_path / "a.hdf5")

    def test_columns_without_a_place(self, tmp_path):
        with pytest.raises(DatasetError, match=r"no place for the columns \['logp'\]"):
            with MinariWriter(tmp_path / "a.hdf5") as writer:
                writer.add(columns(0, 3, logp=np.zeros(3)), True)

    def test_without_the_package(self, tmp_path, monkeypatch):
        write(tmp_path / "a.hdf5")
        monkeypatch.setattr(minari, "h5py", None)
        for act in (lambda: open_dataset(tmp_path / "a.hdf5"), lambda: MinariWriter(tmp_path / "b.hdf5")):
            with pytest.raises(MissingExtraError, match=r"pip install 'nervex\[offline\]'"):
                act()


def test_a_full_disk(tmp_path):
    """The limit of a file's size stands for the disk; Python ignores the signal that comes with it."""
    script = """
import resource, sys
import numpy as np
from nervex.data.offline import MinariWriter
from nervex.utils.errors import DatasetError
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    with MinariWriter(sys.argv[1]) as writer:
        for _ in range(100):
            writer.add({"obs": np.zeros((201, 4)), "action": np.zeros(200), "reward": np.zeros(200)}, True)
except DatasetError as e:
    print("refused:", e)
"""
    path = tmp_path / "file.hdf5"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"refused: cannot write .*file\.hdf5 .*bytes free there\): File too large", done.stdout)
    assert list(tmp_path.iterdir()) == []
