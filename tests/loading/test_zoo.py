"""`zoo:NAME`: one model wherever it is found, checked file by file, and never asked of a hub."""

import dataclasses
import json
import shutil
import sys
import threading
import time
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import mambascope
from mambascope.cli import main
from mambascope.errors import CheckpointError, OutputError
from mambascope.evaluate.fingerprint import fingerprint
from mambascope.inputs.preparation import preparation
from mambascope.loading import hub, zoo
from mambascope.loading.load import load

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from training.zoo.manifest import manifest, pack

NAME = "copying-mamba2"
FOLDER = ROOT / "zoo" / NAME
WEIGHTS = "model.safetensors"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the zoo is in a clone of the repository, and not here")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """A hub that must not be asked."""

    def asked(repository, **options):
        pytest.fail(f"the hub was asked for {repository}")

    monkeypatch.setattr(hub, "snapshot_download", asked)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache beside an installed package, without a clone around it; the working folder is empty too."""
    monkeypatch.setattr(zoo, "CLONE", tmp_path)
    monkeypatch.setenv("MAMBASCOPE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "cache" / "zoo" / NAME


def refused(name, *, loads=load, **options):
    with pytest.raises(CheckpointError) as caught:
        loads(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the manifest ---


def test_the_manifest_is_that_of_the_files_in_the_zoo():
    """After a change there: python -m training.zoo.manifest."""
    stored = json.loads(zoo.MANIFEST.read_text(encoding="utf-8"))
    assert manifest(ROOT / "zoo", stored) == stored
    assert len(stored) == 11
    assert stored[NAME]["task"] == "repeat a random string after a separator"
    assert stored[NAME]["size"] == sum(path.stat().st_size for path in FOLDER.iterdir())


def test_an_address_is_kept_as_long_as_the_files_are_the_released_ones(tmp_path):
    shutil.copytree(FOLDER, tmp_path / NAME)
    shutil.copyfile(ROOT / "zoo" / "README.md", tmp_path / "README.md")
    released = manifest(tmp_path, {}, "https://example.org/1.0")
    assert released[NAME]["address"] == f"https://example.org/1.0/{NAME}.zip"
    (tmp_path / NAME / ".DS_Store").touch()
    assert manifest(tmp_path, released) == released
    (tmp_path / NAME / "config.json").write_text("{}")
    assert manifest(tmp_path, released)[NAME]["address"] is None
    (tmp_path / NAME).rename(tmp_path / "unheard-of")
    with pytest.raises(SystemExit, match=r"README.md says nothing of unheard-of"):
        manifest(tmp_path, released)


# --- in a clone ---


def test_a_clone_has_its_models_whatever_the_working_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAMBASCOPE_CACHE", str(tmp_path / "none"))
    model, tokenizer = load(f"zoo:{NAME}")
    assert model.name_or_path == f"zoo:{NAME}"
    assert mambascope.bundled_models()[f"zoo:{NAME}"] == FOLDER
    by_path = load(FOLDER)
    assert fingerprint((model, tokenizer)) == fingerprint(by_path)
    assert load("tiny-mamba2", tokenizer=f"zoo:{NAME}")[1].get_vocab() == tokenizer.get_vocab()


def test_pictures_are_prepared_as_the_model_of_that_name_says(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    told = preparation(load("zoo:vision-digits-vit")[0])
    assert told.told
    assert told == preparation(load(ROOT / "zoo" / "vision-digits-vit")[0])


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", WEIGHTS])
@pytest.mark.parametrize("where", ["clone", "cache"])
def test_a_file_that_was_changed_is_refused_by_name(where, file, cache, tmp_path):
    folder = cache if where == "cache" else tmp_path / "zoo" / NAME
    (tmp_path / "pyproject.toml").touch()
    shutil.copytree(FOLDER, folder)
    (folder / "README.md").write_text("A card may be edited.")
    assert load(f"zoo:{NAME}")[0].config.vocab_size > 20
    content = bytearray((folder / file).read_bytes())
    content[-1] ^= 1
    (folder / file).write_bytes(content)
    message = refused(f"zoo:{NAME}")
    assert message.startswith(f"{folder / file} is not the file that zoo:{NAME} has (another sha256): ")
    assert message.endswith("load the model again" if where == "cache" else "by its path if this file is meant")


def test_an_unknown_name_is_refused():
    message = refused("zoo:copying-mamba3")
    assert message == "there is no model zoo:copying-mamba3; `mambascope models` lists the models of the zoo"


# --- paths ---


@pytest.mark.parametrize("spelled", [f"zoo/{NAME}", f"zoo/{NAME}/", Path("zoo") / NAME])
def test_a_path_in_the_zoo_is_a_folder_or_refused(spelled, cache):
    message = refused(spelled)
    assert message == f"there is no folder zoo/{NAME} here; load it as zoo:{NAME}"
    if not str(spelled).endswith("/") and isinstance(spelled, str):
        assert refused("tiny-mamba2", tokenizer=spelled) == message
    shutil.copytree(FOLDER, Path("zoo") / NAME)
    assert load(spelled)[0].name_or_path == str(spelled)


def test_another_path_in_the_zoo_is_no_hub_id_either(cache):
    assert refused("zoo/copying-mamba3").startswith("there is no folder zoo/copying-mamba3 here; `mambascope models`")
    assert refused("tiny-mamba2", tokenizer="zoo/gpt").startswith("there is no folder zoo/gpt here")


def test_names_of_older_runs_are_those_of_today():
    assert zoo.spelling(f"zoo/{NAME}") == zoo.spelling(f"zoo:{NAME}") == f"zoo:{NAME}"
    assert [*map(zoo.spelling, ("zoo/gpt", "org/name", "tiny-mamba"))] == ["zoo/gpt", "org/name", "tiny-mamba"]


# --- without a clone ---


def test_an_installed_package_says_how_a_model_is_had(cache, monkeypatch, capsys):
    message = refused(f"zoo:{NAME}")
    assert message == (
        f"zoo:{NAME} does not come with the installed package: copy zoo/{NAME} from a clone of mambascope's "
        f"repository into {cache.parent}"
    )
    assert not [name for name in mambascope.bundled_models() if name.startswith("zoo")]
    monkeypatch.setattr(sys, "argv", ["mambascope", "info", f"zoo:{NAME}"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "does not come with the installed package" in capsys.readouterr().err
    shutil.copytree(FOLDER, cache)
    assert load(f"zoo:{NAME}")[0].name_or_path == f"zoo:{NAME}"
    (cache / "tokenizer.json").unlink()
    assert refused(f"zoo:{NAME}") == message


def test_the_models_of_the_zoo_are_listed(cache, monkeypatch, capsys):
    def listed():
        monkeypatch.setattr(sys, "argv", ["mambascope", "models"])
        with pytest.raises(SystemExit):
            main()
        return " ".join(capsys.readouterr().out.split())

    assert f"zoo:{NAME} repeat a random string after a separator 0.7 MB" in listed()
    assert "11 of these are not here: copy the folders of the models from a clone" in listed()
    shutil.copytree(FOLDER, cache)
    assert "10 of these are not here" in listed()
    monkeypatch.setattr(zoo, "CLONE", ROOT)
    assert "not here" not in listed()


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "/home/me/.cache/mambascope"),
        ("linux", {"XDG_CACHE_HOME": "/big"}, "/big/mambascope"),
        ("darwin", {"XDG_CACHE_HOME": "/big"}, "/home/me/Library/Caches/mambascope"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/mambascope/Cache"),
        ("linux", {"MAMBASCOPE_CACHE": "~/models"}, "/home/me/models"),
    ],
)
def test_the_cache_is_where_the_platform_has_it_or_where_it_is_told(platform, variables, expected, monkeypatch):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "MAMBASCOPE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert zoo.cache_folder() == Path(expected)


# --- fetched ---


@contextmanager
def served(reply, monkeypatch):
    """Serve one reply to everyone at an address that the manifest then has; yields the list of what was asked for."""
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            reply(self)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    release(f"http://127.0.0.1:{server.server_port}/{NAME}.zip", monkeypatch)
    try:
        yield asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def release(address, monkeypatch):
    models = {name: dataclasses.replace(model, address=address) for name, model in zoo.zoo_models().items()}
    monkeypatch.setattr(zoo, "zoo_models", lambda: models)
    monkeypatch.setenv("no_proxy", "*")


def sends(content, status=200):
    def reply(request):
        request.send_response(status)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    return reply


@pytest.fixture
def archive(tmp_path):
    pack(FOLDER, tmp_path / "packed.zip")
    return tmp_path / "packed.zip"


def test_a_released_model_is_fetched_once_and_whole(cache, archive, monkeypatch):
    with served(sends(archive.read_bytes()), monkeypatch) as asked:
        model, tokenizer = load(f"zoo:{NAME}")
        assert {path.name: path.read_bytes() for path in cache.iterdir()} == {
            path.name: path.read_bytes() for path in FOLDER.iterdir()
        }
        assert fingerprint((model, tokenizer)) == fingerprint(load(f"zoo:{NAME}")) == fingerprint(load(FOLDER))
        assert len(asked) == 1
        (cache / "config.json").unlink()
        load(f"zoo:{NAME}")
        assert len(asked) == 2


def test_several_processes_may_fetch_one_model_at_once(cache, archive, monkeypatch):
    failed = []

    def fetch():
        try:
            zoo.folder_of(f"zoo:{NAME}")
        except Exception as error:
            failed.append(error)

    def slowly(request):
        time.sleep(0.1)  # so that all have asked before the first one has a reply
        sends(archive.read_bytes())(request)

    with served(slowly, monkeypatch) as asked:
        threads = [threading.Thread(target=fetch) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (failed, len(asked)) == ([], 6)
    assert sorted(path.name for path in cache.iterdir()) == sorted(path.name for path in FOLDER.iterdir())


def changed(archive, file, content):
    """Return an archive in which one file is another, or absent."""
    out = archive.with_name("changed.zip")
    with zipfile.ZipFile(archive) as given, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name in given.namelist():
            new = content if name == file else given.read(name)
            if new is not None:
                made.writestr(name, new)
    return out.read_bytes()


FAULTS = {
    "absent": (lambda archive: sends(b"", 404), "HTTP Error 404: Not Found"),
    "page": (lambda archive: sends(b"<html>Log in</html>"), "not the zip archive of this model"),
    "cut": (lambda archive: sends(archive.read_bytes()[:-1000]), "not the zip archive of this model"),
    "weights": (lambda archive: sends(changed(archive, WEIGHTS, b"none")), f"{WEIGHTS} is not the file that was"),
    "card": (lambda archive: sends(changed(archive, "README.md", b"none")), "README.md is not the file that was"),
    "lacking": (lambda archive: sends(changed(archive, "config.json", None)), "no item named 'config.json'"),
    "swollen": (lambda archive: sends(changed(archive, WEIGHTS, bytes(10**6))), "larger than the whole model"),
    "large": (lambda archive: sends(bytes(10**6)), "larger than 785,378 bytes"),
    "silent": (lambda archive: lambda request: time.sleep(0.6), "timed out"),
    "nonsense": (lambda archive: lambda request: request.wfile.write(b"nonsense\r\n\r\n"), "BadStatusLine"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_the_released_model_is_not_kept(fault, cache, archive, monkeypatch):
    make, reason = FAULTS[fault]
    monkeypatch.setattr(zoo, "TIMEOUT", 0.3)
    with served(make(archive), monkeypatch):
        message = refused(f"zoo:{NAME}")
    assert message.startswith(f"zoo:{NAME} could not be fetched from http://127.0.0.1:")
    assert reason in message
    assert f"; try again, or copy zoo/{NAME} from a clone" in message
    assert not cache.exists()


def test_no_server_and_no_room_are_said_in_one_sentence(cache, archive, monkeypatch):
    with served(sends(archive.read_bytes()), monkeypatch):
        cache.parents[1].write_text("a file in the way")
        with pytest.raises(OutputError, match=r"could not be created .* name another cache folder in MAMBASCOPE_CACHE"):
            load(f"zoo:{NAME}")
        cache.parents[1].unlink()
    assert "Connection refused" in refused(f"zoo:{NAME}")  # the server has stopped
