"""Learning rates as functions of the step."""

import math
from collections.abc import Sequence

import tensorflow as tf
import tf_keras


@tf_keras.utils.register_keras_serializable(package="electra_pretrain")
class WarmupDecay(tf_keras.optimizers.schedules.LearningRateSchedule):
    """peak x min(1, step / warmup_steps) x decay(step), where step is 1 at the first update and num_steps at the last.

    The decay, which ends at 0, is one of

    - `linear`: 1 - step / num_steps from the first step on, as google-research/electra computes it
      (`model/optimization.py`);
    - `cosine`: half a cosine from the end of warm-up on (SGDR, arXiv 1608.03983, equation 5, one period);
    - `warmup_stable_decay`: 1, then a straight line in the last `decay_fraction` of the run (the schedule of MiniCPM,
      arXiv 2404.06395, section 4.2).

    Args:
      peak: learning rate that the product starts from.
      num_steps: steps after which the rate is 0.
      warmup_steps: steps of linear warm-up; 0: none.
      decay: 'linear', 'cosine' or 'warmup_stable_decay'.
      decay_fraction: fraction of `num_steps`, for `warmup_stable_decay`.
      later_peaks: (step, peak) pairs: after that step the peak is another.

    Raises:
      ValueError: another `decay`.
    """

    def __init__(
        self,
        peak: float,
        num_steps: int,
        warmup_steps: int,
        decay: str = "linear",
        decay_fraction: float = 0.1,
        later_peaks: Sequence[tuple[int, float]] = (),
    ):
        super().__init__()
        if decay not in ("linear", "cosine", "warmup_stable_decay"):
            raise ValueError(f"decay={decay!r}: is 'linear', 'cosine' or 'warmup_stable_decay'")
        self.peak = peak
        self.num_steps = num_steps
        self.warmup_steps = warmup_steps
        self.decay = decay
        self.decay_fraction = decay_fraction
        self.later_peaks = [tuple(pair) for pair in later_peaks]

    def __call__(self, step):
        """Returns the rate, float32, of the update after `step` updates were made."""
        update = tf.cast(step, tf.float32) + 1.0
        peak = tf.constant(self.peak, tf.float32)
        for begin, later_peak in self.later_peaks:
            peak = tf.where(update > begin, later_peak, peak)
        rate = peak * self._decay(update)
        if self.warmup_steps:
            rate *= tf.minimum(1.0, update / self.warmup_steps)
        return rate

    def _decay(self, update: tf.Tensor) -> tf.Tensor:
        if self.decay == "linear":
            return 1.0 - tf.minimum(update / self.num_steps, 1.0)
        if self.decay == "cosine":
            begin = min(self.warmup_steps, self.num_steps - 1)
            return 0.5 * (1.0 + tf.cos(math.pi * self._progress(update, begin)))
        begin = self.num_steps - max(1, round(self.decay_fraction * self.num_steps))
        return 1.0 - self._progress(update, begin)

    def _progress(self, update: tf.Tensor, begin: int) -> tf.Tensor:
        """Fraction of the way from step `begin` to the last, from 0 to 1."""
        return tf.clip_by_value((update - begin) / (self.num_steps - begin), 0.0, 1.0)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = ("peak", "num_steps", "warmup_steps", "decay", "decay_fraction", "later_peaks")
        return {name: getattr(self, name) for name in names}
