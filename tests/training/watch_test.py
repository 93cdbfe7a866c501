from electra_cli.config import default_config
from electra_cli.objectives.electra import ElectraObjective
from electra_cli.objectives.mlm import MaskedLMObjective
from electra_cli.training.run import LossMonitor
from electra_cli.training.watch import WarnOfCollapse


def test_the_median_is_that_of_the_last_ten():
    monitor = LossMonitor()
    for loss in range(9):
        monitor.add_loss(float(loss))
        assert monitor.median() is None
    monitor.add_loss(9.0)
    assert monitor.median() == 4.5
    for loss in (100.0, 101.0, 102.0):
        monitor.add_loss(loss)  # in place of 0, 1 and 2
    assert monitor.median() == 7.5
    monitor.forget_losses()
    assert monitor.median() is None


HEALTHY = {
    "masked_lm_loss": 5.0,
    "rtd_accuracy": 0.95,
    "replaced_fraction": 0.1,
    "rtd_auc": 0.9,
}


def notices(changes, step=1000, unigram_loss=6.0, **settings):
    objective = ElectraObjective(default_config())
    return WarnOfCollapse(objective, **{"warmup_steps": 100, "num_steps": 2000, **settings}).find(
        step, {**HEALTHY, **changes}, unigram_loss
    )


def test_what_has_collapsed_is_named():
    assert notices({}) == []
    (generator,) = notices({"masked_lm_loss": 5.99})
    assert generator.startswith(
        "Warning, step 1,000: masked_lm_loss 5.990 is no better than guessing by frequency (6.000)"
    )
    assert notices({"masked_lm_loss": 5.9}) == []
    assert notices({"masked_lm_loss": 5.99}, unigram_loss=None) == []  # data without counts
    (discriminator,) = notices({"rtd_accuracy": 0.9005, "rtd_auc": 0.51})
    assert (
        "rtd_accuracy 0.9005 is that of calling every token original (0.9000), and rtd_auc 0.510 is near"
        in discriminator
    )
    assert notices({"rtd_accuracy": 0.9, "rtd_auc": 0.7}) == []  # cautious, but it ranks
    assert notices({"rtd_accuracy": 0.92, "rtd_auc": 0.51}) == []
    assert len(notices({"masked_lm_loss": 6.5, "rtd_accuracy": 0.9, "rtd_auc": 0.5})) == 2


def test_a_frozen_generator_is_to_be_one_that_was_trained():
    config = default_config()
    config.objective.frozen_generator = True
    messages = ElectraObjective(config).find_collapse({**HEALTHY, "masked_lm_loss": 6.0}, 6.0)
    assert list(messages) == ["generator"] and messages["generator"].endswith("see config.init.generator")
    assert ElectraObjective(config).find_collapse(HEALTHY, 6.0) == {}


def test_nothing_is_named_before_long_after_warm_up():
    assert notices({"masked_lm_loss": 7.0}, step=599) == []
    assert len(notices({"masked_lm_loss": 7.0}, step=600)) == 1
    assert notices({"masked_lm_loss": 7.0}, step=999, num_steps=4000) == []  # a quarter of the run
    assert len(notices({"masked_lm_loss": 7.0}, step=1000, num_steps=4000)) == 1
    assert notices({"masked_lm_loss": 7.0}, step=899, warmup_steps=300) == []
    assert len(notices({"masked_lm_loss": 7.0}, step=900, warmup_steps=300)) == 1


def test_a_collapse_is_told_once_until_it_is_over():
    collapse = WarnOfCollapse(MaskedLMObjective(default_config()), warmup_steps=0, num_steps=10)
    bad = {"masked_lm_loss": 6.0}
    assert len(collapse.find(500, bad, 6.0)) == 1
    assert collapse.find(501, bad, 6.0) == []
    assert collapse.find(502, {"masked_lm_loss": 3.0}, 6.0) == []
    assert len(collapse.find(503, bad, 6.0)) == 1
