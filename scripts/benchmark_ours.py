"""The training step of electra-pretrain, for `benchmark.py`: builds it, then answers lines on standard input.

`steps N`: seconds of each; `memory`: peak so far; `details`: what the step is made of, and the input pipeline.
"""

import argparse
import dataclasses
import itertools
import json
import os
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import ml_collections

from electra_cli import main as main_module
from electra_cli.data.packing import PrepareSettings
from electra_cli.data.prepare import prepare
from electra_cli.modeling import features, randomness
from electra_cli.objectives import costs

_NUM_TOKENS = 2**19
_VOCAB_SIZE = 30_522


def main() -> None:
    """Builds the step and answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("preset", "precision", "scratch"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--data_dir", default="")
    arguments, overrides = parser.parse_known_args()
    benchmark = Ours(arguments, overrides)
    print(json.dumps(benchmark.ready), flush=True)
    for line in sys.stdin:
        request, *rest = line.split()
        answers: dict[str, Callable[..., dict]] = {
            "steps": benchmark.steps,
            "memory": peak_memory,
            "details": benchmark.details,
        }
        print(json.dumps(answers[request](*rest)), flush=True)


class Ours:
    """The step as `electra-pretrain` makes it, on one batch that is there already.

    Attributes:
      ready: what is known once the first step is made.
    """

    def __init__(self, arguments: argparse.Namespace, overrides: list[str]):
        # Imported here: TensorFlow takes seconds.
        import tensorflow as tf  # noqa: PLC0415

        from electra_cli.data.input_pipeline import training_dataset  # noqa: PLC0415
        from electra_cli.data.source import read_run  # noqa: PLC0415
        from electra_cli.training.distribution import build_runtime  # noqa: PLC0415
        from electra_cli.training.run import build_model  # noqa: PLC0415
        from electra_cli.training.steps import build_train_steps  # noqa: PLC0415
        from electra_cli.training.throughput import measure_flops_per_second  # noqa: PLC0415

        self._tf = tf
        config = _load(arguments, overrides)
        run = read_run(config)
        resolved, train = run.resolved, run.resolved.train
        self._runtime = build_runtime(resolved.runtime, [(train.global_batch_size, train.gradient_accumulation_steps)])
        (phase,) = run.phases
        self._config = resolved
        self._model, self._optimizer = build_model(resolved, self._runtime)
        self._train_steps = build_train_steps(self._model, self._optimizer, self._runtime, resolved)

        def batches(part):
            return training_dataset(
                phase.source.train,
                phase.masking,
                pad_id=phase.source.vocabulary.pad_id,
                max_seq_length=resolved.data.max_seq_length,
                global_batch_size=resolved.train.global_batch_size,
                seed=0,
                start_step=0,
                part=part,
            )

        self._input = lambda: iter(self._runtime.distribute(batches))
        self._batch = next(self._input())
        one = self._runtime.distribute(lambda part: batches(part).take(self._runtime.num_replicas).cache().repeat())
        self._ready_batches = iter(one)
        self._step = 0
        first = self.steps(1)["seconds"][0]
        tokens = sum(float(tf.reduce_sum(x)) for x in self._runtime.strategy.experimental_local_results(
            self._batch[features.INPUT_MASK]))  # fmt: skip
        self.ready = {
            "first_step_seconds": first,
            "tokens_per_step": tokens,
            "flops_per_step": costs.matmul_flops(resolved),
            "flops_per_second": measure_flops_per_second(self._runtime),
            "sizes": _sizes(resolved),
        }

    def steps(self, number: int | str) -> dict:
        """Makes steps, a call each."""
        seconds = []
        for _ in range(int(number)):
            start = time.perf_counter()
            self._make(self._ready_batches, 1)
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}

    def details(self) -> dict:
        """Times the parts of a step, and the input pipeline alone and in training."""
        parts = self._parts()
        times: dict[str, list[float]] = {name: [] for name in parts}
        for _ in range(4):
            for name, run in parts.items():
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
        # The first builds.
        median = {name: statistics.median(values[1:]) for name, values in times.items()}
        whole = median["whole"]
        iterator, begin, number = self._input(), time.perf_counter(), 0
        while time.perf_counter() - begin < 5.0:
            next(iterator)
            number += 1
        examples_per_second = number * self._config.train.global_batch_size / (time.perf_counter() - begin)
        iterator, number = self._input(), max(2, min(100, int(10.0 / whole)))
        self._make(iterator, 1)
        begin = time.perf_counter()
        waited = float(self._make(iterator, number)["input_wait_seconds"])
        return {
            "share_of_step": {
                "forward": median["forward"] / whole,
                "backward": (median["gradients"] - median["forward"]) / whole,
                "optimizer": (whole - median["gradients"]) / whole,
                "(sampling)": median["sampling"] / whole,
                "(masked-LM head)": median["masked_lm_head"] / whole,
            },
            "input_examples_per_second": examples_per_second,
            "input_wait_fraction": waited / (time.perf_counter() - begin),
        }

    def _make(self, iterator, number: int) -> dict:
        tf = self._tf
        sums = self._train_steps(iterator, tf.constant(self._step, tf.int64), tf.constant(number, tf.int64))
        self._step += number
        float(sums["num_steps"])  # waits for the result
        return sums

    def _parts(self) -> dict:
        """Returns functions that compute parts of the step of one replica."""
        tf = self._tf
        from electra_cli.objectives.base import objective_of  # noqa: PLC0415
        from electra_cli.objectives.electra_pretrainer import sample_tokens  # noqa: PLC0415
        from electra_cli.objectives.mlm import masked_lm_loss  # noqa: PLC0415
        from electra_cli.training.steps import build_gradients  # noqa: PLC0415

        local = self._runtime.strategy.experimental_local_results
        batch = {name: local(value)[0] for name, value in self._batch.items()}
        config, model = self._config, self._model
        seed = randomness.stream_seed(0, randomness.Stream.DROPOUT, 0)
        compute = build_gradients(model, self._optimizer, config)
        slots = (batch[features.MASKED_LM_IDS], batch[features.MASKED_LM_WEIGHTS])
        size = config.train.global_batch_size // self._runtime.num_replicas
        shape = [size, config.data.max_seq_length, config.derived.generator_hidden_size]
        encoded = tf.random.normal(shape)
        logits = tf.random.normal([size, config.derived.max_predictions_per_seq, config.derived.vocab_size])

        def forward():
            outputs = model(batch, training=True, seed=seed)
            return sum(tf.reduce_sum(outputs[name]) for name in ("lm_outputs", "disc_logits"))

        def gradients():
            found, _ = compute(batch, objective_of(config).batch_weights(batch), tf.constant(0, tf.int64), 0)
            return tf.linalg.global_norm(found)

        def masked_lm_head():
            with tf.GradientTape() as tape:
                tape.watch(encoded)
                loss, _ = masked_lm_loss(
                    tf.cast(model.masked_lm(encoded, batch[features.MASKED_LM_POSITIONS]), tf.float32), *slots
                )
            return tf.linalg.global_norm(tape.gradient(loss, [encoded, *model.masked_lm.trainable_variables]))

        def sampling():
            return sample_tokens(logits, batch[features.SAMPLING_UNIFORM])

        def timed(function):
            compiled = self._runtime.function(function)
            return lambda: compiled().numpy()

        return {
            **{function.__name__: timed(function) for function in (forward, gradients, masked_lm_head, sampling)},
            "whole": lambda: self._make(self._ready_batches, 1),
        }


def _load(arguments: argparse.Namespace, overrides: list[str]) -> ml_collections.ConfigDict:
    """Returns the config that `electra-pretrain` would train with."""
    main_module.CONFIG.parse(["benchmark.py", f"--config={arguments.preset}", *overrides])
    config = main_module.CONFIG.config
    config.train.global_batch_size = arguments.batch
    config.runtime.precision = arguments.precision
    config.data.dir = arguments.data_dir or _make_data(arguments.scratch, config.data.max_seq_length)
    return config


def _make_data(scratch: str, max_seq_length: int) -> str:
    """Prepares random words, unless that was done; returns the directory."""
    output = os.path.join(scratch, f"data-{max_seq_length}")
    if os.path.isdir(output):
        return output
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [
        "".join(word) for word in itertools.islice(itertools.product(letters, repeat=4), _VOCAB_SIZE - len(special))
    ]
    vocab_file, text_file = os.path.join(scratch, "vocab.txt"), os.path.join(scratch, "text.txt")
    with open(vocab_file, "w") as stream:
        stream.write("\n".join(special + words) + "\n")
    rng = random.Random(0)
    with open(text_file, "w") as stream:
        for _ in range(_NUM_TOKENS // max_seq_length // 8):
            lines = (" ".join(rng.choices(words, k=max_seq_length // 4)) for _ in range(4 * 8))
            stream.write("\n".join(lines) + "\n\n")
    settings = PrepareSettings(max_seq_length=max_seq_length)
    prepare(
        [text_file], output, settings, vocab_file=vocab_file, num_workers=1, overwrite=False, report=lambda *_: None
    )
    return output


def _sizes(config: ml_collections.FrozenConfigDict) -> dict:
    """Returns what a peer needs to build networks of the same sizes."""
    generator, discriminator = costs.network_sizes(config)
    if generator is None:
        return {}
    return {"generator": dataclasses.asdict(generator), "discriminator": dataclasses.asdict(discriminator)}


def peak_memory() -> dict:
    """Returns the peak of the device's memory; of a CPU, that of the process."""
    import tensorflow as tf  # noqa: PLC0415

    if tf.config.list_physical_devices("GPU"):
        return {"peak_gb": tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e9}
    return {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


if __name__ == "__main__":
    main()
