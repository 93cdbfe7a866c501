import pytest

from electra_cli.errors import UserError
from electra_cli.workdir.run_files import check_checkpoint_flag, named_checkpoint


def test_names_of_checkpoints_are_those_of_the_workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^--checkpoint=best: run keeps no best checkpoint, for which config\.train\."):
        named_checkpoint("run", "best")
    (tmp_path / "run" / "checkpoints" / "best").mkdir(parents=True)
    assert named_checkpoint("run", "best") == "run/checkpoints/best"
    assert named_checkpoint("run", "ckpt-500") == "run/checkpoints/ckpt-500"
    for path in ("other/checkpoints/ckpt-500", "other", "ckpt-5x"):
        assert named_checkpoint("run", path) == path
    (tmp_path / "ckpt-500.index").touch()  # what lies here is meant
    assert named_checkpoint("run", "ckpt-500") == "ckpt-500"


def test_a_checkpoint_may_be_a_directory_an_index_or_what_is_left_of_one(tmp_path):
    (tmp_path / "ckpt-1.index").touch()
    (tmp_path / "ckpt-2.data-00000-of-00001").touch()
    for name in ("", "ckpt-1", "ckpt-1.index", "ckpt-2"):
        check_checkpoint_flag(str(tmp_path / name))
    with pytest.raises(UserError, match=r"ckpt-3: no such checkpoint or directory; give a directory of"):
        check_checkpoint_flag(str(tmp_path / "ckpt-3"))
