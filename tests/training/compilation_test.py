import sys

from tests import forking

PROGRAM = """
import tensorflow as tf
from electra_cli.training.distribution import silence_first_notice
silence_first_notice()
print(float(tf.function(lambda x: x * 2.0, jit_compile=True)(tf.constant(3.0))))
import sys

from tests import forking
sys.stderr.write("mine")
"""


def test_what_xla_compiles_first_is_not_told_and_standard_error_is_whole_again():
    result = forking.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0
    assert result.stdout == "6.0\n"
    assert "Compiled cluster" not in result.stderr and result.stderr.endswith("mine")
