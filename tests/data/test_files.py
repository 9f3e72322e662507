import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest
from server import serving
from tiny_data import picture, records, write_coco, write_folder, write_parquet, write_tar
from torch.utils.data import DataLoader

from unclip.common.errors import UserError
from unclip.data import files, remote
from unclip.data.readers.folder import FolderSource
from unclip.data.readers.opening import open_files
from unclip.data.readers.tar import TarSource
from unclip.data.remote import Unreadable


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(remote, "_PAUSES", (0.0, 0.0))
    files._block.cache_clear()
    with serving() as server:
        yield server


DATA = np.random.default_rng(0).bytes(100_000)


@pytest.fixture(params=["local", "memory", "http"])
def place(request, tmp_path, server):
    """Where DATA lies."""
    if request.param == "http":
        server.files["x.bin"] = DATA
        return server.url("x.bin")
    if request.param == "memory":
        url = f"memory://{tmp_path.name}/x.bin"
        fsspec.filesystem("memory").pipe_file(url, DATA)
        return url
    (tmp_path / "x.bin").write_bytes(DATA)
    return str(tmp_path / "x.bin")


def test_any_range_is_what_a_slice_is(place, monkeypatch):
    monkeypatch.setattr(files, "BLOCK", 1000)
    file = files.stat_file(place)
    assert file.size == len(DATA)
    rng = np.random.default_rng(1)
    spans = [(0, 0), (0, 1), (0, 100_000), (999, 2), (1000, 1000), (99_999, 1), (100_000, 0)]
    spans += [(int(a), int(rng.integers(0, 100_000 - a))) for a in rng.integers(0, 100_000, 50)]
    for offset, size in spans:
        assert file.read(offset, size) == DATA[offset : offset + size]
    with pytest.raises(Unreadable, match="became shorter"):
        file.read(99_990, 11)


def test_a_library_may_read_it_as_a_file(place):
    with files.stat_file(place).open() as file:
        assert file.read(10) == DATA[:10]
        file.seek(-5, os.SEEK_END)
        assert (file.tell(), file.read(100), file.read(1)) == (99_995, DATA[-5:], b"")
        file.seek(7)
        file.seek(3, os.SEEK_CUR)
        assert file.read() == DATA[10:]


def test_threads_read_at_once(place):
    file = files.stat_file(place)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda n: file.read(n, 100), range(0, 99_000, 100)))
    assert b"".join(got) == DATA[:99_000]


def test_a_file_on_disk_that_changes_is_not_read_on(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"before")
    file = files.stat_file(str(path))
    path.write_bytes(b"after it")
    with pytest.raises(Unreadable, match="changed since it was opened"):
        file.read(0, 5)
    assert files.stat_file(str(path)).read(0, 5) == b"after"
    path.write_bytes(b"aft")  # in place, while it is open
    with pytest.raises(Unreadable, match="became shorter"):
        files.File(*file._replace(size=3)).read(0, 5)


def test_what_cannot_be_read_is_one_line_with_path_and_reason(tmp_path, server):
    os.mkfifo(tmp_path / "pipe")
    server.files["x"] = b"1"
    for path, reason in (
        (tmp_path / "gone", "does not exist"),
        (tmp_path, "cannot be read (not a regular file)"),
        (tmp_path / "pipe", "cannot be read (not a regular file)"),
        (str(tmp_path / "a\0b"), "cannot be read (embedded null byte)"),
        (str(tmp_path / "a\ud800b"), "cannot be read ('utf-8' codec"),
        (server.url("gone"), "does not exist"),
        ("memory://gone", "does not exist"),
    ):
        with pytest.raises(Unreadable) as caught:
            files.read(str(path))
        assert str(caught.value).startswith(f"data.source: {path} {reason}")
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


class TestRemote:
    def test_a_request_that_fails_is_tried_again_and_then_says_why(self, server):
        server.files["x"] = b"hello"
        server.failures = 2
        assert files.read(server.url("x")) == b"hello"
        server.failures = 3
        with pytest.raises(Unreadable, match=r"/x cannot be read \(503, .*Service Unavailable"):
            files.read(server.url("x"))
        assert server.failures == 0
        server.failures = 3 * 2  # HTTP looks twice: HEAD, then GET
        with pytest.raises(Unreadable, match=r"/x cannot be read \(503"):
            files.stat_file(server.url("x"))

    def test_a_refusal_is_not_tried_again(self, server):
        with pytest.raises(Unreadable, match="does not exist"):
            files.read(server.url("gone"))
        assert len(server.requests) == 1

    def test_a_server_that_is_gone_is_named(self, monkeypatch):
        monkeypatch.setattr(remote, "_PAUSES", ())
        with serving() as server:
            url = server.url("x")
        with pytest.raises(Unreadable, match=rf"^data.source: {url} cannot be read \(Cannot conn"):
            files.stat_file(url)

    def test_a_server_without_ranges_is_refused(self, server):
        server.files["x"] = DATA
        server.ranges = False
        with pytest.raises(Unreadable, match="the server sends whole files"):
            files.stat_file(server.url("x"))._replace(size=50_000).read(0, 10)

    def test_a_missing_package_is_one_line_that_says_what_to_install(self):
        with pytest.raises(
            UserError, match=r"^data.source: s3://b/x.tar needs .*Install s3fs.*"
        ) as e:
            open_files("s3://b/x.tar")
        assert "pip install 'unclip[remote]'" in str(e.value)
        with pytest.raises(
            UserError, match=r"not a URL that unclip can read \(Protocol not known: ftpz"
        ):
            open_files("ftpz://b/x.tar")

    def test_files_of_the_hub_are_urls_and_no_datasets(self, monkeypatch):
        monkeypatch.setattr(remote, "_PAUSES", ())
        url = "hf://datasets/nobody/nothing/0.tar"
        with pytest.raises(Unreadable, match=rf"^data.source: {url} cannot be read \(.*offline"):
            open_files(url)

    def test_a_chain_reads_through_its_cache(self, server):
        server.files["x.bin"] = DATA
        file = files.stat_file(f"filecache::{server.url('x.bin')}")
        assert file.size == len(DATA)
        assert file.read(5, 10) == DATA[5:15]
        assert file.read(50_005, 10) == DATA[50_005:50_015]
        assert [request for request in server.gets() if request[2]] == []


class TestExpand:
    def test_braces_and_globs_are_sorted_paths(self, tmp_path, server):
        for n in (2, 0, 1, 10):
            (tmp_path / f"{n:02d}.tar").touch()
            server.files[f"d/{n:02d}.tar"] = b"x"
            fsspec.filesystem("memory").pipe_file(f"memory://{tmp_path.name}/{n:02d}.tar", b"x")
        for root in (str(tmp_path), server.url("d"), f"memory://{tmp_path.name}"):
            paths = [f"{root}/{n:02d}.tar" for n in (0, 1, 2, 10)]
            assert [p.replace(":///", "://") for p in files.expand(f"{root}/*.tar")] == paths
            assert files.expand(f"{root}/{{00..02}}.tar") == paths[:3]
            assert files.expand(f"{root}/0{{2,1}}.tar") == [paths[2], paths[1]]
        chained = f"filecache::{server.url('d/*.tar')}"
        assert files.expand(chained) == [
            f"filecache::{server.url(f'd/{n:02d}.tar')}" for n in (0, 1, 2, 10)
        ]
        signed = server.url("d/00.tar") + "?key=*"
        assert files.last_part(signed) == "00.tar"

    def test_a_name_that_is_there_is_taken_as_it_is(self, tmp_path):
        (tmp_path / "a[1]{2}.tar").touch()
        assert files.expand(str(tmp_path / "a[1]{2}.tar")) == [str(tmp_path / "a[1]{2}.tar")]

    def test_patterns_that_lead_nowhere_are_named(self, tmp_path):
        for pattern, reason in (
            ("*.tar", "no file matches"),
            ("{0..1", "a brace that does not close"),
        ):
            with pytest.raises(UserError, match=reason):
                files.expand(str(tmp_path / pattern))
        with pytest.raises(UserError, match=r"no file matches memory://nothing/\*\.tar"):
            files.expand("memory://nothing/*.tar")


class TestSources:
    """Sources of each kind on a server."""

    def test_tars_on_a_server_are_the_same_as_on_disk(self, tmp_path, server):
        for n in range(3):
            path = write_tar(tmp_path / f"{n}.tar", records(30)[10 * n : 10 * n + 10])
            server.files[f"d/{n}.tar"] = path.read_bytes()
        local = open_files(str(tmp_path / "{0..2}.tar"))
        for spec in ("d/{0..2}.tar", "d/*.tar", "d/"):
            source = open_files(server.url(spec))
            assert source.fingerprint() == local.fingerprint()
            assert [source.key(n) for n in range(30)] == [local.key(n) for n in range(30)]
        assert np.array_equal(source[29].image, picture(29))
        assert source.shards().tolist() == [10, 10, 10]

    def test_a_tar_costs_a_request_per_block(self, tmp_path, server, monkeypatch):
        path = write_tar(tmp_path / "d.tar", records(40))
        server.files["d.tar"] = path.read_bytes()
        monkeypatch.setattr(files, "BLOCK", 8192)
        source = TarSource(server.url("d.tar"))
        for n in range(40):
            assert source[n].captions == [f"image number {n}"]
        blocks = -(-path.stat().st_size // 8192)
        ranges = [wanted for _, _, wanted in server.gets() if wanted]
        assert len(ranges) == len(set(ranges)) <= blocks
        again = TarSource(server.url("d.tar"))  # its index is in the cache
        assert again.fingerprint() == source.fingerprint()

    def test_a_parquet_folders_and_coco(self, tmp_path, server):
        server.files["d.parquet"] = write_parquet(tmp_path / "d.parquet", records(20)).read_bytes()
        for path in write_folder(tmp_path / "f", records(20)).iterdir():
            server.files[f"f/{path.name}"] = path.read_bytes()
        for source in (open_files(server.url("d.parquet")), open_files(server.url("f"))):
            assert [source.key(n) for n in range(20)] == [f"{n:04d}" for n in range(20)]
            assert np.array_equal(source[19].image, picture(19))
            assert source[19].captions == ["image number 19"]
        captions = write_coco(tmp_path / "c", records(20))
        server.files[f"c/annotations/{captions.name}"] = captions.read_bytes()
        for key, image, _ in records(20):
            server.files[f"c/train2017/{key}.png"] = image
        for spec in (
            f"c/annotations/{captions.name}",
            f"c/annotations/{captions.name}?images={server.url('f')}",
        ):
            source = open_files(server.url(spec))
            assert np.array_equal(source[19].image, picture(19))
        for n in range(20):
            server.files[f"t/{n}.png"] = records(20)[n][1]
            server.files[f"t/{n}.txt"] = b"an image"
        beside = FolderSource(server.url("t"))
        assert sorted(beside.key(n) for n in range(20)) == sorted(str(n) for n in range(20))
        assert beside[3].captions == ["an image"]

    def test_loader_workers_read_after_their_parent_did(self, tmp_path, server):
        path = write_tar(tmp_path / "d.tar", records(40))
        server.files["d.tar"] = path.read_bytes()
        server.files["f/metadata.jsonl"] = (
            write_folder(tmp_path / "f", records(40)).joinpath("metadata.jsonl").read_bytes()
        )
        for key, image, _ in records(40):
            server.files[f"f/{key}.png"] = image
        for spec in ("d.tar", "f"):
            source = open_files(server.url(spec))
            expected = [source[n].captions[0] for n in range(40)]
            files._block.cache_clear()  # so that the workers have to ask the server
            loader = DataLoader(
                source, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60
            )
            assert [sample.captions[0] for sample in loader] == expected
            files._block.cache_clear()
            assert [
                source[n].captions[0] for n in range(40)
            ] == expected  # the parent's lines are open still
