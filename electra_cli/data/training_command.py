"""A manifest in, a command that pre-trains on its data as it is out. No TensorFlow here."""

import runpy
import shlex

from electra_cli.config_presets import PRETRAINING
from electra_cli.data.tfrecords import Manifest

_PRESET = "small"


def training_command(data_dir: str, manifest: Manifest) -> str:
    """Returns a command line that pre-trains `--config=small` on prepared data.

    The preset's length of examples is overridden where the data has another. Where nothing is held out, nothing is
    evaluated.

    Args:
      data_dir: where the data lies.
      manifest: what it is.
    """
    config = runpy.run_path(PRETRAINING.path(_PRESET))["get_config"]()
    arguments = [f"--config={_PRESET}", f"--config.data.dir={data_dir}"]
    length = manifest.max_seq_length
    if length != config.data.max_seq_length:
        arguments.append(f"--config.data.max_seq_length={length}")
    if length > config.model.max_position_embeddings:
        arguments.append(f"--config.model.max_position_embeddings={length}")
    arguments.append("--workdir=RUN")
    if not manifest.num_examples("validation"):
        arguments.append("--mode=train")
    return shlex.join(["electra-pretrain", *arguments])
