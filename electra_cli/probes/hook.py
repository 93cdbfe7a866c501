"""Probes as a hook of the training loop."""

from collections.abc import Sequence

import ml_collections

from electra_cli.probes.probe_files import ProbeExamples
from electra_cli.probes.prober import SPLIT, Prober, describe, read_probes
from electra_cli.training.hooks import Hook, MetricsLines, Update
from electra_cli.training.run import Run, TrainingRun


class Probe(Hook):
    """Probes the encoder every `eval.probe_interval` steps or with each evaluation, and at the last step.

    Args:
      probes: the labelled examples, one file at least.
    """

    def __init__(self, probes: Sequence[ProbeExamples]):
        self._probes = probes
        self._prober: Prober | None = None

    def resume(self, run: TrainingRun, lines: MetricsLines) -> None:
        """Probes where a stop came before it."""
        if self._prober_of(run).is_due(run.step, run.is_evaluation_due(), lines):
            self._probe(run)

    def after_update(self, run: TrainingRun, update: Update) -> None:
        """Probes if it is time to."""
        if self._prober_of(run).is_due(run.step, run.is_evaluation_due()):
            self._probe(run)
            run.throughput.restart(run.step)

    def evaluate(self, run: Run) -> dict[str, float]:
        """Probes."""
        with run.logger.status(f"Probing {len(self._probes)} labelled files"):
            scores = self._prober_of(run).run()
        assert scores is not None  # nothing stops it
        run.logger.result("probes", {"step": run.step, **scores}, describe(run.step, scores))
        return scores

    def _probe(self, run: TrainingRun) -> None:
        """Probes in the chief; other workers wait for it."""
        with run.logger.status(f"Probing the encoder of step {run.step:,}"):
            scores = self._prober_of(run).run(lambda: run.stop.requested) if run.runtime.is_chief else None
        if scores is not None:
            run.logger.metrics(SPLIT, run.step, scores, describe(run.step, scores))
        run.end_if_asked(f"while probing step {run.step:,}")

    def _prober_of(self, run: Run) -> Prober:
        if self._prober is None:
            self._prober = Prober(run.config, run.phases, self._probes, run.model, run.optimizer, run.runtime)
        return self._prober


def probe_hooks(config: ml_collections.FrozenConfigDict) -> list[Hook]:
    """Returns the hook that `eval.probes` asks for; none where it names no file.

    Raises:
      UserError: as `read_probes`.
    """
    probes = read_probes(config)
    return [Probe(probes)] if probes else []
