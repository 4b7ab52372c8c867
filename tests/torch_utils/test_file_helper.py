"""Data in files and in an S3 storage: a server in a process of its own, reached over a socket."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec
import numpy as np
import pytest
import torch

from nervex.utils import find_free_port, read_file, remove_file, save_file, try_import_ceph
from nervex.utils.errors import ConfigError, MissingExtraError, StorageError
from nervex.utils.files import FileLayer, is_temporary

SERVER = "from moto.server import main; import sys; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"
START_S = 60


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server with the bucket ``runs``."""
    url = f"http://127.0.0.1:{(port := find_free_port())}"
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                bucket = urllib.request.Request(f"{url}/runs", method="PUT")
                urllib.request.urlopen(bucket, timeout=START_S).close()
                break
            except urllib.error.URLError:
                assert server.poll() is None and time.monotonic() < deadline, "the S3 server did not start"
                time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=START_S)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def data() -> dict[str, Any]:
    return {"obs": torch.arange(6.0).reshape(2, 3), "id": np.arange(3), "note": "läuft"}


def assert_same(got: Any) -> None:
    assert list(got) == ["obs", "id", "note"] and got["note"] == "läuft"
    assert torch.equal(got["obs"], data()["obs"]) and np.array_equal(got["id"], data()["id"])


@pytest.mark.parametrize("fs_type", [None, "normal", "mc"])
def test_a_file_of_this_machine(tmp_path: Path, fs_type: str | None) -> None:
    path = tmp_path / "new" / "folder" / "a.data"
    save_file(path, data(), fs_type)
    assert_same(read_file(path, fs_type))
    save_file(str(path), [1], fs_type)
    assert read_file(str(path), fs_type) == [1]
    assert [p.name for p in path.parent.iterdir()] == ["a.data"]
    remove_file(path, fs_type)
    assert not path.exists()
    with pytest.raises(StorageError, match=rf"cannot read {path}: No such file or directory"):
        read_file(path, fs_type)
    with pytest.raises(StorageError, match=rf"cannot remove {path}: No such file or directory"):
        remove_file(path, fs_type)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.data"
    save_file(path, [1])

    def full(self: FileLayer, file: Any, blob: Any) -> None:
        file.write(blob[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileLayer, "write", full)
    with pytest.raises(StorageError, match=rf"cannot write {path} \([\d,]+ bytes\): No space left on device"):
        save_file(path, [2])
    assert read_file(path) == [1] and not any(is_temporary(p) for p in tmp_path.iterdir())
    with pytest.raises(TypeError, match="cannot be saved without pickle"):
        save_file(path, [print])
    assert read_file(path) == [1]


@pytest.mark.parametrize("content", [b"", b"epoch: 3\n", b"\x80\x04N."])
def test_a_foreign_file_is_one_clear_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=rf"{path} is no file of save_file, or damaged: {len(content)} bytes"):
        read_file(path)


@pytest.mark.parametrize(
    ("path", "fs_type"), [("s3://runs/one/a.data", None), ("s3://runs/b", "ceph"), ("runs/c", "ceph")]
)
def test_an_object_in_s3(s3_server: str, path: str, fs_type: str | None) -> None:
    where = {"endpoint_url": s3_server, "timeout_s": 60}
    save_file(path, data(), fs_type, **where)
    assert_same(read_file(path, fs_type, **where))
    client = boto3.client("s3", endpoint_url=s3_server)  # another program finds it there
    key = path.removeprefix("s3://").removeprefix("runs/")
    assert client.get_object(Bucket="runs", Key=key)["Body"].read().startswith(b"nvX1none")
    save_file(path, "other", fs_type, **where)
    assert read_file(path, fs_type, **where) == "other"
    with pytest.raises(StorageError, match="no such bucket or key"):
        remove_file(path.rpartition("/")[0], "ceph", **where)
    remove_file(path, fs_type, **where)
    for call in (read_file, remove_file):
        with pytest.raises(StorageError, match=rf"cannot \w+ s3://runs/\S+ at {s3_server}: no such bucket or key"):
            call(path, fs_type, **where)


def test_the_address_may_come_from_the_environment(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    save_file("s3://runs/environment", [1, 2], timeout_s=60)
    assert read_file("s3://runs/environment", endpoint_url=s3_server) == [1, 2]
    with pytest.raises(StorageError, match=f"cannot write s3://nowhere/a at {s3_server}: no such bucket or key"):
        save_file("s3://nowhere/a", [1])


def test_a_service_that_refuses_connections() -> None:
    url = f"http://127.0.0.1:{find_free_port()}"
    with pytest.raises(StorageError) as caught:
        read_file("s3://runs/a", endpoint_url=url, timeout_s=20)
    text = str(caught.value)
    assert "cannot read s3://runs/a at " + url in text and "(limit 20 s)" in text and "\n" not in text
    assert "EndpointConnectionError" in text and text.endswith("and are address and credentials right?")


@pytest.mark.parametrize("call", [read_file, remove_file, lambda path, **where: save_file(path, [1], **where)])
def test_a_service_that_does_not_answer_is_given_up(call: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system accepts, nobody ever answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(StorageError, match=rf"cannot \w+ s3://runs/a at {url} after \d+\.\d s \(limit 0\.5 s\)"):
            call("s3://runs/a", endpoint_url=url, timeout_s=0.5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: read_file("a", "cehp"), ConfigError, r"unknown fs_type 'cehp'; did you mean 'ceph'\?"),
        (lambda: read_file("gs://a/b"), ConfigError, "gs://a/b is a 'gs' address; expected a path"),
        (lambda: read_file("s3://a/b", "normal"), ConfigError, "is in an S3 storage, and fs_type is 'normal'"),
        (lambda: read_file("a", timeout_s=0), ConfigError, "timeout_s=0; expected a positive number"),
    ],
)
def test_wrong_use_is_one_clear_sentence(call: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_without_s3fs(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert try_import_ceph() is fsspec.get_filesystem_class("s3")

    def missing(*args: Any, **kwargs: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(MissingExtraError, match=r"S3 storage needs s3fs; install it with: pip install 'nervex\[s3\]'"):
        read_file("s3://a/b")
    assert try_import_ceph() is None and "pip install 'nervex[s3]'" in caplog.text
