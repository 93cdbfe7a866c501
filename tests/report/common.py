"""Workdirs written by hand, so that every number of a report can be told."""

import json

from electra_cli.config import default_config
from electra_cli.config.resolution import resolve


def electra_line(step, value):
    return {
        "total_loss": 20.0 + value,
        "masked_lm_loss": 5.0 + value,
        "masked_lm_accuracy": 0.1 + value / 100,
        "rtd_loss": 0.3 + value / 100,
        "rtd_accuracy": 0.87 + value / 1000,
        "rtd_auc": 0.6 + value / 100,
        "replaced_fraction": 0.13,
    }


def write_workdir(path, *, num_steps=40, overrides=None, lines=None, events=None, probes=True):
    """An ELECTRA run that logs every 10 steps, each of 8 examples of 32 tokens with 200 real ones; evaluated twice."""
    path.mkdir(parents=True)
    config = default_config()
    config.update_from_flattened_dict(
        {"data.dir": "data", "data.max_seq_length": 32, "train.num_steps": num_steps, "train.global_batch_size": 8}
        | (overrides or {})
    )
    record = {"config": resolve(config, 100).to_dict(), "data_fingerprint": "x", "devices": "2 GPUs"}
    (path / "config.json").write_text(json.dumps(record))
    if lines is None:
        lines = []
        for step in range(10, num_steps + 1, 10):
            more = {"real_tokens": 2000.0, "learning_rate": step / 1e5, "gradient_norm": 2.5, "tokens_per_second": 5e4}
            lines.append({"step": step, "split": "train", **electra_line(step, 100 / step), **more})
            if step % 20 == 0:
                more = {"unigram_masked_lm_loss": 6.5, "num_examples": 20}
                lines.append({"step": step, "split": "validation", **electra_line(step, 110 / step), **more})
            if probes and step % 20 == 0:
                scores = {"probe/trec/accuracy": 0.3 + step / 100, "probe/trec/accuracy_random": 0.3}
                lines.append({"step": step, "split": "probe", **scores})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if events is None:
        events = [
            {"event": "start", "step": 0, "devices": "2 GPUs", "lost_step": 0},
            {"event": "nonfinite", "step": 7, "replicas": [1]},
            {"event": "stop", "step": 15, "reason": "SIGTERM"},
            {"event": "start", "step": 15, "devices": "2 GPUs", "lost_step": 0},
            {"event": "rollback", "step": 30, "restored_step": 20, "total_loss": 81.0, "median": 25.5},
            {"event": "start", "step": 20, "devices": "2 GPUs", "lost_step": 30},
            {"event": "end", "step": num_steps},
        ]
    stamped = [{"time": f"2026-01-02T03:04:{place:02}+00:00", **event} for place, event in enumerate(events)]
    (path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in stamped))
    return path
