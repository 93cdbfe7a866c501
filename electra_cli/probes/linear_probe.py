"""Features of examples and their labels in, how well a linear model tells the labels out. No TensorFlow.

Scores are those of predictions for the fifth of the examples that the model was not fitted on, for each fifth in turn.
"""

import warnings

import numpy as np

from electra_cli.finetuning import scores
from electra_cli.finetuning.examples import sort_labels

NUM_FOLDS = 5
# Inverse strength of the penalty of logistic regression, on standardized features: strong, since they are hundreds to
# thousands and examples not many more. A fixed one makes scores comparable from step to step.
_INVERSE_PENALTY = 0.01
_MOST_ITERATIONS = 500
# Penalties that ridge regression chooses from, by leaving one out of what it is fitted on.
_RIDGE_PENALTIES = np.logspace(1, 5, 9)


def score_linear_model(features: np.ndarray, targets: np.ndarray, *, is_classification: bool) -> scores.Scores:
    """Returns cross-validated scores, the primary one first; they are the same each time, on any number of cores.

    Args:
      features: float [examples, width].
      targets: classes (str) or numbers, [examples]; `probe_files.read_probe_file` says what must be among them.
      is_classification: whether they are classes.

    Returns:
      `accuracy`, `f1` and `mcc` of a logistic regression, or `spearman` and `pearson` of a ridge regression.
    """
    # Import time.
    from sklearn.linear_model import LogisticRegression, RidgeCV  # noqa: PLC0415
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    if is_classification:
        model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=_MOST_ITERATIONS)
        folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=0)
    else:
        model, folds = RidgeCV(_RIDGE_PENALTIES), KFold(NUM_FOLDS, shuffle=True, random_state=0)
    # One thread: TensorFlow may be preparing batches meanwhile, and the order of sums stays the same.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore")  # of classes with few examples, and of fits cut off at the most iterations
        pipeline = make_pipeline(StandardScaler(), model)
        predictions = cross_val_predict(pipeline, features.astype(np.float64), targets, cv=folds)
    if is_classification:
        return scores.score_classes(predictions.tolist(), targets.tolist(), sort_labels(targets.tolist()))
    return scores.score_numbers(predictions.tolist(), targets.tolist())
