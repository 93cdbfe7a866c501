"""The training steps of other implementations, for `benchmark.py`, on random batches of the same sizes.

usage: benchmark_peers.py {tfm,tfm_xla,torch,torch_bfloat16_compiled} BATCH SIZES, then lines on standard input:
`steps N`: seconds of each; `memory`: peak so far. SIZES are those of `costs.NetworkSize`, as JSON.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main() -> None:
    """Builds the step and answers."""
    variant, batch, sizes = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    if not sizes:
        raise SystemExit("benchmark_peers.py: peers have a generator of their own only")
    build = build_torch_step if variant.startswith("torch") else build_tfm_step
    step = build(batch, sizes, variant)

    def make(number: int) -> list[float]:
        seconds = []
        for _ in range(number):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        return seconds

    (first,) = make(1)
    print(json.dumps({"first_step_seconds": first}), flush=True)
    for line in sys.stdin:
        request, *rest = line.split()
        if request == "steps":
            print(json.dumps({"seconds": make(int(rest[0]))}), flush=True)
        else:
            print(json.dumps({"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}), flush=True)


def build_tfm_step(batch: int, sizes: dict, variant: str) -> Callable[[], object]:
    """Returns the step of tf-models-official's ElectraPretrainTask, as its experiment configures it."""
    import numpy as np  # noqa: PLC0415
    import tensorflow as tf  # noqa: PLC0415
    from official.core import exp_factory  # noqa: PLC0415
    from official.modeling import optimization  # noqa: PLC0415
    from official.nlp.configs import encoders, pretraining_experiments  # noqa: F401, PLC0415
    from official.nlp.tasks import electra_task  # noqa: PLC0415

    def encoder(size: dict) -> encoders.EncoderConfig:
        config = encoders.EncoderConfig(type="bert")
        names = (
            "vocab_size",
            "embedding_size",
            "num_layers",
            "hidden_size",
            "num_attention_heads",
            "intermediate_size",
        )
        for name in names:
            setattr(config.bert, name, size[name])
        config.bert.max_position_embeddings = max(512, size["seq_length"])
        return config

    size = sizes["discriminator"]
    length, slots = size["seq_length"], size["num_predictions"]
    settings = exp_factory.get_exp_config("electra/pretraining")
    settings.task.train_data.use_next_sentence_label = False
    settings.task.model.num_masked_tokens, settings.task.model.sequence_length = slots, length
    settings.task.model.generator_encoder = encoder(sizes["generator"])
    settings.task.model.discriminator_encoder = encoder(size)
    schedule = settings.trainer.optimizer_config
    schedule.learning_rate.polynomial.decay_steps, schedule.warmup.polynomial.warmup_steps = 1_000_000, 10_000
    factory = optimization.OptimizerFactory(schedule)
    optimizer = factory.build_optimizer(factory.build_learning_rate())
    task = electra_task.ElectraPretrainTask(settings.task)
    model, metrics = task.build_model(), task.build_metrics()

    rng = np.random.default_rng(0)
    ids = rng.integers(5, size["vocab_size"], (batch, length), np.int32)
    positions = np.sort(rng.permuted(np.tile(np.arange(1, length - 1), (batch, 1)), axis=1)[:, :slots]).astype(np.int32)
    inputs = {
        "input_word_ids": tf.constant(ids),
        "input_mask": tf.ones_like(ids),
        "input_type_ids": tf.zeros_like(ids),
        "masked_lm_positions": tf.constant(positions),
        "masked_lm_ids": tf.constant(np.take_along_axis(ids, positions, axis=1)),
        "masked_lm_weights": tf.ones([batch, slots]),
    }
    model(inputs)
    optimizer.build(model.trainable_variables) if hasattr(optimizer, "build") else optimizer.iterations

    @tf.function(jit_compile=variant == "tfm_xla")
    def train_step():
        return task.train_step(inputs, model, optimizer, metrics)["loss"]

    return lambda: float(train_step())


def build_torch_step(batch: int, sizes: dict, variant: str) -> Callable[[], object]:
    """Returns the step of transformers' networks with shared embeddings, AdamW and clipping, on PyTorch."""
    import torch  # noqa: PLC0415

    is_bfloat16 = "bfloat16" in variant
    size = sizes["discriminator"]
    length, slots = size["seq_length"], size["num_predictions"]
    is_modern = size["architecture"] == "modern"
    encode, predict, generator, discriminator = (_modern_networks if is_modern else _electra_networks)(sizes)
    weights = list({id(weight): weight for weight in (*generator.parameters(), *discriminator.parameters())}.values())
    optimizer = torch.optim.AdamW(weights, lr=5e-4)

    def compute_loss(ids, masked_ids, places, mask):
        logits = predict(encode(masked_ids, attention_mask=mask).last_hidden_state[places]).float()
        masked_lm = torch.nn.functional.cross_entropy(logits, ids[places])
        with torch.no_grad():
            gumbel = -torch.log(torch.empty_like(logits).exponential_())
            corrupted = ids.clone()
            corrupted[places] = (logits + gumbel).argmax(dim=-1)
            labels = (corrupted != ids).float()
        disc_logits = discriminator(corrupted, attention_mask=mask).logits.float().reshape(labels.shape)
        return masked_lm + 50.0 * torch.nn.functional.binary_cross_entropy_with_logits(disc_logits, labels)

    if "compiled" in variant:
        compute_loss = torch.compile(compute_loss)
    ids = torch.randint(5, size["vocab_size"], (batch, length))
    places = torch.zeros(batch, length, dtype=torch.bool)
    places.scatter_(1, torch.rand(batch, length - 2).argsort(dim=1)[:, :slots] + 1, True)
    masked_ids, mask = ids.masked_fill(places, 4), torch.ones_like(ids)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bfloat16):
            loss = compute_loss(ids, masked_ids, places, mask)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        return loss.item()

    return step


def _electra_networks(sizes: dict) -> tuple:
    """Returns the generator's encoder and head, then generator and discriminator; `_modern_networks` does, too."""
    import transformers  # noqa: PLC0415

    def config(network: dict) -> transformers.ElectraConfig:
        names = ("vocab_size", "embedding_size", "hidden_size", "num_attention_heads", "intermediate_size")
        given = {name: network[name] for name in names}
        longest = max(512, network["seq_length"])
        return transformers.ElectraConfig(
            num_hidden_layers=network["num_layers"], max_position_embeddings=longest, **given
        )

    generator = transformers.ElectraForMaskedLM(config(sizes["generator"]))
    discriminator = transformers.ElectraForPreTraining(config(sizes["discriminator"]))
    embeddings = discriminator.electra.embeddings
    generator.electra.embeddings = embeddings
    generator.generator_lm_head.weight = embeddings.word_embeddings.weight

    def predict(hidden):
        return generator.generator_lm_head(generator.generator_predictions(hidden))

    return generator.electra, predict, generator, discriminator


def _modern_networks(sizes: dict) -> tuple:
    import transformers  # noqa: PLC0415

    from electra_cli.interop.modernbert import config_of  # noqa: PLC0415
    from electra_cli.objectives.costs import NetworkSize  # noqa: PLC0415

    def config(network: dict) -> transformers.ModernBertConfig:
        ids = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
        return transformers.ModernBertConfig(**{**config_of(NetworkSize(**network)), **ids, "num_labels": 1})

    generator = transformers.ModernBertForMaskedLM(config(sizes["generator"]))
    discriminator = transformers.ModernBertForTokenClassification(config(sizes["discriminator"]))
    embeddings = discriminator.model.embeddings
    generator.model.embeddings = embeddings
    generator.decoder.weight = embeddings.tok_embeddings.weight

    def predict(hidden):
        return generator.decoder(generator.head(hidden))

    return generator.model, predict, generator, discriminator


if __name__ == "__main__":
    main()
