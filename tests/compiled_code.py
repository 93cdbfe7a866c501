"""Keeps what XLA compiles in one process of a session for all others that are forked: a fifth of a short run.

conftest.py names the directory before TensorFlow is imported; this is imported before it computes anything.
"""

import collections
import ctypes
import os
import shutil

import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import concrete_function

_directory = os.environ["TF_XLA_FLAGS"].partition("=")[2]
tf.config.threading.get_inter_op_parallelism_threads()  # reads the flags
del os.environ["TF_XLA_FLAGS"]  # processes that are not forked would log what is silenced below

# Protobuf logs an error whenever kept code is read, since it tries another format first. What silences it, as
# TF_CPP_MIN_LOG_LEVEL does TensorFlow's own, has the name of TensorFlow 2.20; another version logs them.
_SET_MIN_LOG_LEVEL, _FATAL = "_ZN4absl12lts_2025012714SetMinLogLevelENS0_18LogSeverityAtLeastE", 3
_set_min_log_level = getattr(
    ctypes.CDLL(f"{tf.sysconfig.get_lib()}/libtensorflow_framework.so.2"), _SET_MIN_LOG_LEVEL, None
)
if _set_min_log_level is not None:
    _set_min_log_level(_FATAL)

_num_traced: collections.Counter[str] = collections.Counter()


def _numbered_name(name: str) -> str:
    """Names a compiled function by how many of its name were before it: by its name, XLA finds the code that it kept.

    TensorFlow's number is that of all operations until then, which any difference before changes.
    """
    _num_traced[name] += 1
    return f"__inference_{name}_0{_num_traced[name]}"


concrete_function._inference_name = _numbered_name


def remove() -> None:
    """Removes what this process's session kept; xdist's workers leave it to the process that started them."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(_directory, ignore_errors=True)  # where nothing was compiled there is none
