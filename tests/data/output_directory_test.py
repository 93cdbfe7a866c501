import contextlib
import itertools
import os
import shutil

import pytest

from electra_cli.data.output_directory import OutputDirectory
from electra_cli.data.packing import PrepareSettings
from electra_cli.data.prepare import prepare
from electra_cli.data.vocabulary_learning import LearningSettings
from electra_cli.errors import UserError
from tests.conftest import SEQ_LENGTH, VOCAB_SIZE, make_text

OLD, NEW = {"a": "old a", "b": "old b"}, {"a": "new a", "c": "new c"}
CHANGES = ("rename", "replace", "remove", "unlink", "rmdir")  # all that `shutil.rmtree` calls is among them


class Killed(BaseException):
    """Stands for SIGKILL: after it, only what the kernel does as well is done, to close the lock."""


@contextlib.contextmanager
def killed_at(step):
    """Ends what runs within before its n-th change of the file system; yields the names of all changes."""
    changes = []

    def before(original):
        def change(*arguments, **options):
            if len(changes) + 1 == step:
                raise Killed
            changes.append(original.__name__)
            return original(*arguments, **options)

        return change

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, before(getattr(os, name)))
        yield changes


def read_files(directory):
    return {path.name: path.read_text() for path in directory.iterdir()} if directory.is_dir() else {}


def write_files(directory, contents):
    os.makedirs(directory, exist_ok=True)
    for name, content in contents.items():
        with open(os.path.join(directory, name), "w") as stream:
            stream.write(content)


def deliver(target, *, job="job", overwrite=True, content=NEW, step=0, within_commit=False):
    """Writes a directory, unless it is killed before a step of all or of the commit; returns what it changed."""
    with contextlib.ExitStack() as stack:
        changes = [] if within_commit else stack.enter_context(killed_at(step))
        with OutputDirectory(str(target), overwrite=overwrite, owned="abc", job=job) as output:
            if not output.is_finished:
                write_files(output.path, content)
                write_files(output.scratch, {"note": "x", "examples": "y"})
                write_files(os.path.join(output.scratch, "below"), {"deep": "z"})
            if within_commit:
                changes = stack.enter_context(killed_at(step))
            output.commit()
    return changes


@pytest.fixture
def old_data(tmp_path):
    write_files(tmp_path / "data", OLD)
    return tmp_path / "data"


def test_a_commit_killed_at_any_step_is_ended_by_the_same_job(tmp_path, old_data):
    for step in itertools.count(1):
        shutil.rmtree(tmp_path)
        write_files(old_data, OLD)
        try:
            deliver(old_data, step=step, within_commit=True)
        except Killed:
            pass
        else:
            break
        assert OLD in (read_files(old_data), read_files(tmp_path / "data.partial.old")) or (
            NEW.items() <= read_files(old_data).items()
        )
        with OutputDirectory(str(old_data), overwrite=True, owned="abc", job="job") as output:
            assert output.is_finished or step == 1  # before the first, nothing says that all is whole
            if not output.is_finished:
                write_files(output.path, NEW)
            output.commit()
        assert read_files(old_data) == NEW
        assert os.listdir(tmp_path) == ["data"]
    assert step > 10


def test_so_is_one_that_is_killed_again(tmp_path, old_data):
    for first, second in itertools.product(range(1, 15), range(1, 15)):
        shutil.rmtree(tmp_path)
        write_files(old_data, OLD)
        for options in ({"step": first, "within_commit": True}, {"step": second}):
            with contextlib.suppress(Killed, UserError):
                deliver(old_data, **options)
        deliver(old_data)
        assert read_files(old_data) == NEW
        assert os.listdir(tmp_path) == ["data"]


def test_another_job_puts_back_what_was_there(tmp_path, old_data):
    num_new = 0
    for step in range(1, 15):
        shutil.rmtree(tmp_path)
        write_files(old_data, OLD)
        with contextlib.suppress(Killed):
            deliver(old_data, step=step, within_commit=True)
        with pytest.raises(UserError, match=r"data is not empty: .*--overwrite"):
            deliver(old_data, job="other", overwrite=False)
        assert read_files(old_data) in (OLD, NEW)
        num_new += read_files(old_data) == NEW
        deliver(old_data, job="other", content={"b": "other"})
        assert read_files(old_data) == {"b": "other"}
        assert os.listdir(tmp_path) == ["data"]
    assert 0 < num_new < 14


def test_files_half_removed_for_another_job_are_not_used(tmp_path):
    target = tmp_path / "data"
    for step, is_finished in itertools.product(range(1, 15), (False, True)):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        with contextlib.suppress(Killed), OutputDirectory(str(target), overwrite=False, owned="abc", job="job") as one:
            write_files(one.path, NEW)
            if is_finished:
                with killed_at(3):
                    one.commit()
        with contextlib.suppress(Killed), killed_at(step):
            OutputDirectory(str(target), overwrite=False, owned="abc", job="other").__enter__()._unlock()
        with OutputDirectory(str(target), overwrite=False, owned="abc", job="job") as again:
            if again.is_resumed:
                assert set(NEW) <= set(os.listdir(again.path))


def test_a_link_is_written_where_it_points_to(tmp_path, old_data):
    (tmp_path / "there").mkdir()
    for name, target in (("link", old_data), ("dangling", tmp_path / "there" / "new")):
        (tmp_path / name).symlink_to(target)
        deliver(tmp_path / name)
        assert (tmp_path / name).is_symlink() and read_files(target) == NEW
    assert sorted(os.listdir(tmp_path)) == ["dangling", "data", "link", "there"]


@pytest.mark.parametrize("name", ["data.partial", "data.partial.old", "data.partial/.lock", "data.partial/scratch"])
def test_links_are_not_followed(tmp_path, old_data, name):
    write_files(tmp_path / "precious", OLD)
    write_files(tmp_path / "precious", {".lock": "lock"})
    if "/" in name:
        write_files(tmp_path / "data.partial", {".lock": ""} if "scratch" in name else {})
    precious = tmp_path / "precious" / ".lock" if name.endswith(".lock") else tmp_path / "precious"
    (tmp_path / name).symlink_to(precious)
    if name.endswith("scratch"):
        deliver(old_data)
    else:
        with pytest.raises(UserError, match=f"{name} is a symbolic link, which is not followed: remove it"):
            deliver(old_data)
    assert read_files(tmp_path / "precious") == {**OLD, ".lock": "lock"}
    assert read_files(old_data) == (NEW if name.endswith("scratch") else OLD)


def test_the_lock_holds_until_all_is_in_its_place(tmp_path, old_data):
    met = []

    def meet(original):
        def change(*arguments, **options):
            with pytest.MonkeyPatch.context() as unpatched:
                for name, function in originals.items():
                    unpatched.setattr(os, name, function)
                with pytest.raises(UserError, match="another process is writing it"):
                    deliver(old_data, overwrite=False)
            met.append(original.__name__)
            return original(*arguments, **options)

        return change

    originals = {name: getattr(os, name) for name in CHANGES}
    with OutputDirectory(str(old_data), overwrite=True, owned="abc", job="job") as output:
        write_files(output.path, NEW)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "rename", meet(os.rename))
            patch.setattr(os, "rmdir", meet(os.rmdir))
            output.commit()
    assert met.count("rename") == 3
    assert read_files(old_data) == NEW
    assert os.listdir(tmp_path) == ["data"]


def test_a_preparation_killed_within_its_commit_is_whole_after_the_next(tmp_path, data_dir):
    (tmp_path / "text.txt").write_text(make_text(60))

    def run(target):
        prepare(
            [str(tmp_path / "text.txt")],
            str(target),
            PrepareSettings(max_seq_length=SEQ_LENGTH, validation_fraction=0.15),
            learning=LearningSettings(VOCAB_SIZE, min_frequency=1),
            num_workers=1,
            overwrite=True,
            report=lambda *_: None,
        )

    def read_bytes(directory):
        return {path.name: path.read_bytes() for path in directory.iterdir()}

    run(tmp_path / "whole")
    expected, old = read_bytes(tmp_path / "whole"), read_bytes(data_dir)
    commit = OutputDirectory.commit
    for step in itertools.count(1):
        shutil.copytree(data_dir, tmp_path / "out" / "data")

        def killed_commit(output, step=step):
            with killed_at(step):
                commit(output)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OutputDirectory, "commit", killed_commit)
            try:
                run(tmp_path / "out" / "data")
            except Killed:
                pass
            else:
                break
        places = [path for path in (tmp_path / "out").iterdir() if path.name != "data.partial"]
        assert any(expected.items() <= read_bytes(place).items() or read_bytes(place) == old for place in places)
        run(tmp_path / "out" / "data")
        assert read_bytes(tmp_path / "out" / "data") == expected
        assert os.listdir(tmp_path / "out") == ["data"]
        shutil.rmtree(tmp_path / "out")
    assert step > 15
