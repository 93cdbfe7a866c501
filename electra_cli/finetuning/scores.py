"""Predictions and what is right in, scores out: fractions from 0 to 1, correlations from -1 to 1.

The formulas are those of scikit-learn, SciPy, seqeval and the official SQuAD scripts. Where they have no value, or give
NaN and a warning, a score is 0 and says why.
"""

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np


class Scores(dict[str, float]):
    """Scores by name, all finite.

    Attributes:
      reasons: by name of a score, why it has no meaning and its value is 0; empty: all mean what they say.
    """

    def __init__(self, values: Mapping[str, float], reasons: Mapping[str, str] | None = None):
        super().__init__(values)
        self.reasons = dict(reasons or {})
