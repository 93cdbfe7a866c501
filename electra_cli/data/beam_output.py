"""The output directory of a pipeline: local or of any file system that Beam knows.

Workers write into a temporary directory below it; the launching process moves what is whole. A local directory appears
whole or not at all (`OutputDirectory`). Object stores cannot rename a directory: there files are moved one by one and
the manifest is written last, so that a directory without `manifest.json` is not whole.
"""

import contextlib
import dataclasses
import shutil
import uuid
from collections.abc import Iterator, Mapping

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

from electra_cli import files
from electra_cli.data.output_directory import OutputDirectory, check_replaceable
from electra_cli.data.tfrecords import DATA_FILES
from electra_cli.errors import UserError


@dataclasses.dataclass(frozen=True)
class Output:
    """Where a pipeline writes.

    Attributes:
      path: where the files are to lie.
      scratch: a directory for temporary files.
      replaced: files that are to go when new ones come.
    """

    path: str
    scratch: str
    replaced: tuple[str, ...] = ()

    def add_scratch_file(self, local_path: str) -> str:
        """Copies a local file to where workers see it, and returns its path there."""
        path = files.join(self.scratch, local_path.rsplit("/", 1)[-1])
        copy_to(local_path, path)
        return path

    def publish(self, moves: Mapping[str, str], contents: Mapping[str, bytes]) -> None:
        """Moves files from `scratch` (path to name), then writes the contents (by name), in this order."""
        if self.replaced:
            FileSystems.delete(list(self.replaced))
        FileSystems.rename(list(moves), [files.join(self.path, name) for name in moves.values()])
        for name, content in contents.items():
            with FileSystems.create(files.join(self.path, name)) as stream:
                stream.write(content)


@contextlib.contextmanager
def open_output(output_dir: str, *, overwrite: bool) -> Iterator[Output]:
    """Yields where to write; nothing is left of it after an exception.

    Args:
      output_dir: the directory to be made.
      overwrite: whether one that is not empty may be replaced.

    Raises:
      UserError: it is not empty, cannot be written, or Beam does not know its file system.
    """
    job = uuid.uuid4().hex  # never the job that left something there
    if not files.is_remote(output_dir):
        with OutputDirectory(output_dir, overwrite=overwrite, owned=DATA_FILES, job=job) as directory:
            try:
                yield Output(directory.path, directory.scratch)
            except BaseException:
                shutil.rmtree(directory.path, ignore_errors=True)
                raise
            directory.commit()
        return
    scratch = files.join(output_dir, f"partial-{job}")
    try:
        found = _list(output_dir)
        names = (path.removeprefix(output_dir.rstrip("/") + "/") for path in found)
        check_replaceable(output_dir, names, (*DATA_FILES, "partial-*"), overwrite=overwrite)
        FileSystems.mkdirs(scratch)
        try:
            yield Output(output_dir, scratch, found)
        finally:
            if leftover := _list(scratch):
                FileSystems.delete(list(leftover))
    except BeamIOError as error:
        raise UserError(f"--output_dir={output_dir} cannot be written: {error}") from error
    except ValueError as error:
        if "filesystem" not in str(error):
            raise
        scheme = output_dir.split("://", 1)[0]
        raise UserError(
            f"--output_dir={output_dir}: Beam knows no {scheme}:// here; install what it needs, such as "
            f"pip install 'apache-beam[gcp]' for gs:// or 'apache-beam[aws]' for s3://"
        ) from error


def copy_to(local_path: str, path: str) -> None:
    """Copies a local file to a path of any file system."""
    with open(local_path, "rb") as source, FileSystems.create(path) as target:
        shutil.copyfileobj(source, target, 1 << 20)


def _list(directory: str) -> tuple[str, ...]:
    return tuple(found.path for found in FileSystems.match([files.join(directory, "**")])[0].metadata_list)
