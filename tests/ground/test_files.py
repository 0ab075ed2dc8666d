"""A file is written whole or not at all: where links lead, with the right permissions, whatever stands in its way."""

import multiprocessing
import os
import resource
import secrets
import signal
import stat
import tempfile
import time
from pathlib import Path

import pytest

from made_results import in_parts, make
from mambascope import show
from mambascope.errors import InputError, MambascopeError, OutputError
from mambascope.files import make_folder, whole_file
from mambascope.show import FORMATS

BEFORE = "what stood here before"


@pytest.fixture(params=[0o022, 0o077], ids=["open", "private"])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def write(path, text="new"):
    with whole_file(path) as partial:
        partial.write_text(text)


@pytest.mark.parametrize("ending", [".html", ".png", ".csv", ".npz", ".safetensors"])
def test_a_new_file_has_the_permissions_that_the_umask_leaves(tmp_path, ending, umask):
    assert mode(make().save(tmp_path / f"x{ending}")) == 0o666 & ~umask


@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_written_again_keeps_its_permissions(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    path.write_text(BEFORE)
    path.chmod(0o640)
    assert mode(in_parts(make()).save(path)) == 0o640
    assert path.read_bytes() != BEFORE.encode()


@pytest.mark.parametrize("kept", [0o600, 0o664, 0o444, 0o755])
def test_permissions_of_every_kind_are_kept(tmp_path, kept):
    path = tmp_path / "x"
    path.write_text(BEFORE)
    path.chmod(kept)
    write(path)
    assert (mode(path), path.read_text()) == (kept, "new")


def test_a_private_file_is_private_while_it_is_written(tmp_path):
    path = tmp_path / "x"
    path.write_text(BEFORE)
    path.chmod(0o600)
    with whole_file(path) as partial:
        assert mode(partial) == 0o600
        partial.write_text("new")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_written_again_keeps_its_owner(tmp_path):
    path = tmp_path / "x"
    path.write_text(BEFORE)
    os.chown(path, 12345, 23456)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


@pytest.mark.parametrize("ending", [".html", ".png", ".npz", ".safetensors"])
def test_a_link_is_written_through(tmp_path, ending):
    (tmp_path / "far").mkdir()
    target, link, second = tmp_path / "far" / f"target{ending}", tmp_path / f"x{ending}", tmp_path / f"y{ending}"
    target.write_text(BEFORE)
    link.symlink_to(Path("far") / target.name)
    second.symlink_to(link)
    make().save(second)
    assert second.is_symlink()
    assert link.is_symlink()
    assert target.read_bytes() == make().save(tmp_path / f"z{ending}").read_bytes()
    assert sorted(file.name for file in (tmp_path / "far").iterdir()) == [target.name], "no partial file is left"


def test_a_link_that_leads_nowhere_yet_gets_its_target(tmp_path):
    (tmp_path / "x").symlink_to(tmp_path / "target")
    write(tmp_path / "x")
    assert (tmp_path / "x").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    (tmp_path / "y").symlink_to(tmp_path / "no" / "target")
    with pytest.raises(InputError, match=f"the folder {tmp_path / 'no'} does not exist"):
        write(tmp_path / "y")


def test_the_temporary_file_is_never_another_file(tmp_path, monkeypatch):
    monkeypatch.setattr(secrets, "token_hex", lambda size=None: "guessed")
    victim, path = tmp_path / "victim", tmp_path / "page.html"
    victim.write_text(BEFORE)
    taken = tmp_path / "page.guessed.partial.html"
    taken.symlink_to(victim)
    with pytest.raises(OutputError, match="File exists"):
        write(path)
    assert victim.read_text() == BEFORE
    assert taken.is_symlink(), "what another process made is left alone"
    assert not path.exists()


def test_a_link_put_in_place_of_the_temporary_file_is_refused(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text(BEFORE)
    victim.chmod(0o600)

    def replace():
        with whole_file(tmp_path / "x") as partial:
            partial.unlink()
            partial.symlink_to(victim)

    with pytest.raises(OutputError, match="symbolic links"):
        replace()
    assert (victim.read_text(), mode(victim)) == (BEFORE, 0o600)
    assert [file.name for file in tmp_path.iterdir()] == ["victim"]


def test_files_of_the_user_are_untouched(tmp_path):
    mine = [tmp_path / name for name in ("page.partial.html", "page.html.partial", ".page.html", "page.tmp")]
    for path in mine:
        path.write_text(BEFORE)
    write(tmp_path / "page.html")
    assert [path.read_text() for path in mine] == [BEFORE] * len(mine)


def write_often(path, letter):
    for _ in range(150):
        write(path, letter * 5000)


def test_two_writers_at_once_both_succeed(tmp_path):
    path = tmp_path / "x.html"
    starts = multiprocessing.get_context("fork")
    writers = [starts.Process(target=write_often, args=(path, letter)) for letter in "ab"]
    for one in writers:
        one.start()
    found = set()
    while any(one.is_alive() for one in writers):
        found |= {path.read_text()} if path.exists() else set()
        time.sleep(0.002)
    for one in writers:
        one.join()
    assert [one.exitcode for one in writers] == [0, 0]
    assert found <= {"a" * 5000, "b" * 5000}, "whole at every moment"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", FORMATS)
def test_a_full_disk_keeps_the_former_file(tmp_path, ending):
    """A limit on the size of files stands for the full disk: the system refuses in the middle of writing."""
    path = tmp_path / f"x{ending}"
    path.write_text(BEFORE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        with pytest.raises(OutputError, match=r"could not be written: .*File too large"):
            in_parts(make()).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == BEFORE
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x" * 300 + ".html", "File name too long"),
        ("é" * 150 + ".html", "File name too long"),
        ("a\0b.html", "null (byte|character)"),
        ("loop.html", "symbolic links"),
        ("pipe.html", "is a device, pipe or socket; name a file"),
        ("null.html", "is a device, pipe or socket; name a file"),
        ("folder.html", "is a folder; name a file in it"),
        ("file/x.html", "does not exist; create it or choose another folder"),
    ],
    ids=["long", "long in bytes", "null byte", "loop", "pipe", "device", "folder", "under a file"],
)
def test_a_place_where_no_file_can_be_is_refused(tmp_path, name, said):
    (tmp_path / "loop.html").symlink_to(tmp_path / "loop2.html")
    (tmp_path / "loop2.html").symlink_to(tmp_path / "loop.html")
    os.mkfifo(tmp_path / "pipe.html")
    (tmp_path / "null.html").symlink_to("/dev/null")
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").write_text(BEFORE)
    before = sorted(tmp_path.iterdir())
    for refuse in (show.check_file, make().save):
        with pytest.raises(InputError, match=said):
            refuse(tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


def test_a_name_as_long_as_a_name_can_be_is_written(tmp_path):
    for name in ("x" * 250 + ".html", "é" * 125 + ".html"):
        assert make().save(tmp_path / name).read_bytes()


def test_a_protected_folder_is_refused_before_any_work():
    with tempfile.TemporaryDirectory() as name:
        folder, user = Path(name), os.geteuid()
        folder.chmod(0o555)
        os.seteuid(65534 if user == 0 else user)  # nothing is protected from root
        try:
            with pytest.raises(InputError, match=f"the folder {folder} is protected; choose another folder"):
                show.check_file(folder / "x.html")
        finally:
            os.seteuid(user)


def test_a_folder_that_takes_no_files_is_one_sentence():
    with pytest.raises(MambascopeError, match=r"^/proc/x\.html (could not|cannot) be written"):
        make().save("/proc/x.html")


def test_a_folder_is_made_or_refused_in_one_sentence(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text(BEFORE)
    for name in ("file", "file/a", "x" * 300, "a\0b"):
        with pytest.raises(OutputError, match="could not be created"):
            make_folder(tmp_path / name)
