import numpy as np
import pytest
import tensorflow as tf

from electra_cli.data.input_pipeline import evaluation_dataset
from electra_cli.data.source import read_run
from electra_cli.errors import UserError
from electra_cli.loggers.logger import Logger
from electra_cli.report.samples import take_samples
from electra_cli.training import loop
from electra_cli.training.initialization import restore_model
from tests.conftest import prepare_small, small_config

NUM_SAMPLES = 3


def train(config, workdir):
    config.train.num_steps = config.train.checkpoint_interval = 2
    loop.train(config, str(workdir), with_evaluation=False, logger=Logger())
    return str(workdir)


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    config = small_config(data_dir)
    config.objective.sampling_temperature, config.model.initializer_range = 1.5, 0.3
    workdir = train(config, tmp_path_factory.mktemp("samples") / "run")
    return config, workdir, take_samples(workdir, NUM_SAMPLES)


def evaluated(config, workdir):
    """What the model itself makes of the examples, and of their batch in an evaluation."""
    run_config = read_run(config)
    (phase,) = run_config.phases
    dataset = evaluation_dataset(
        phase.source.validation, phase.masking, pad_id=phase.source.vocabulary.pad_id, max_seq_length=32,
        global_batch_size=8, num_examples=config.eval.num_examples,
    )  # fmt: skip
    batch = {name: value[:NUM_SAMPLES] for name, value in next(iter(dataset)).items()}
    model, _ = restore_model(run_config.resolved, f"{workdir}/checkpoints", lambda _: None)
    outputs = model(batch, training=False)
    return {name: value.numpy() for name, value in {**batch, **outputs}.items()}, phase.source.vocabulary.tokens


def test_samples_are_what_evaluation_sees(run):
    config, workdir, (step, samples) = run
    values, vocabulary = evaluated(config, workdir)
    assert step == 2 and len(samples) == NUM_SAMPLES
    probabilities = tf.nn.softmax(values["lm_outputs"]).numpy()
    for index, sample in enumerate(samples):
        length = values["input_mask"][index].sum()
        assert len(sample.tokens) == length
        labels = [int(token.is_replaced) for token in sample.tokens]
        assert labels == values["disc_label"][index][:length].tolist() and sum(labels) > 0
        expected = tf.sigmoid(values["disc_logits"][index][:length]).numpy()
        np.testing.assert_allclose([token.replaced_probability for token in sample.tokens], expected, rtol=1e-4)
        num_masked = int(values["masked_lm_weights"][index].sum())
        assert sum(token.choice is not None for token in sample.tokens) == num_masked
        for slot in range(num_masked):
            token = sample.tokens[values["masked_lm_positions"][index, slot]]
            original = values["masked_lm_ids"][index, slot]
            assert token.text == vocabulary[original].removeprefix("##")
            assert token.original_probability == pytest.approx(probabilities[index, slot, original], rel=1e-4)
            # Pieces that are shown alike may stand for one choice.
            alike = [place for place, piece in enumerate(vocabulary) if piece.removeprefix("##") == token.choice]
            found = probabilities[index, slot, alike]
            assert any(probability == pytest.approx(token.choice_probability, rel=1e-4) for probability in found)
    assert sample.tokens[0].text == "[CLS]" and sample.tokens[0].choice is None


def test_masked_language_models_show_their_best_guess(data_dir, tmp_path):
    config = small_config(data_dir)
    config.objective.name = "mlm"
    workdir = train(config, tmp_path / "run")
    values, vocabulary = evaluated(config, workdir)
    _, samples = take_samples(workdir, NUM_SAMPLES)
    for index, sample in enumerate(samples):
        position = values["masked_lm_positions"][index, 0]
        token = sample.tokens[position]
        assert token.choice == vocabulary[values["lm_outputs"][index, 0].argmax()].removeprefix("##")
        assert token.verdict in ("right", "wrong") and token.replaced_probability is None


def test_what_is_missing_is_named(corpus_file, tmp_path):
    with pytest.raises(UserError, match=r"holds no config\.json"):
        take_samples(str(tmp_path), 1)
    data = prepare_small(corpus_file, tmp_path / "data", validation_fraction=0.0)[0]
    config = small_config(data)
    with pytest.raises(UserError, match="has no validation examples"):
        take_samples(train(config, tmp_path / "run"), 1)
    (data / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"vocab\.txt cannot be read"):
        take_samples(str(tmp_path / "run"), 1)
