"""Times the preparation and the reading of data.

usage: python scripts/benchmark_prepare.py TEXT_FILE VOCAB_FILE [--repeat=10] [--workers=1,2]

Repeats the text, prepares it with each number of workers, and reads it back, masked, in one thread. Prints a table,
after the rate of the tokenizers package alone, a line a call, as a yardstick for the machine.
Quote ratios between lines of one run on a quiet machine, never a line alone.
"""

import argparse
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description="Times the preparation and the reading of data.")
    parser.add_argument("text_file", type=pathlib.Path)
    parser.add_argument("vocab_file", type=pathlib.Path)
    parser.add_argument("--repeat", type=int, default=10, help="how often the text stands in the corpus")
    parser.add_argument("--workers", default="1,2", help="numbers of processes, comma-separated")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        corpus = os.path.join(directory, "corpus.txt")
        with open(corpus, "wb") as stream:
            for _ in range(arguments.repeat):
                stream.write(arguments.text_file.read_bytes() + b"\n\n")
        megabytes = os.path.getsize(corpus) / 1e6
        print(f"corpus: {megabytes:,.1f} MB")
        print(f"tokenizers alone, one thread: {_tokenize(arguments):,.1f} MB/s")
        print(f"{'workers':>8} {'seconds':>8} {'MB/s':>8} {'peak MB a process':>18}")
        for number in arguments.workers.split(","):
            output = os.path.join(directory, f"data-{number}")
            seconds = _prepare(corpus, str(arguments.vocab_file), output, number)
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            print(f"{number:>8} {seconds:>8.1f} {megabytes / seconds:>8.1f} {peak:>18,.0f}", flush=True)
        shards = sum(path.stat().st_size for path in pathlib.Path(output).glob("*.tfrecord"))
        print(f"shards: {shards / 1e6:,.1f} MB")
        print(f"reading and masking, one thread: {_read(output):,.0f} examples of 128 a second")


def _prepare(corpus: str, vocab_file: str, output: str, num_workers: str) -> float:
    start = time.perf_counter()
    command = subprocess.run(
        [
            *(sys.executable, "-m", "electra_cli.commands.prepare"),
            *(f"--input={corpus}", f"--vocab_file={vocab_file}", f"--output_dir={output}"),
            f"--num_workers={num_workers}",
        ],
        capture_output=True,
        text=True,
    )
    if command.returncode:
        sys.exit(command.stderr)
    return time.perf_counter() - start


def _tokenize(arguments: argparse.Namespace) -> float:
    import tokenizers  # noqa: PLC0415

    tokenizer = tokenizers.BertWordPieceTokenizer(str(arguments.vocab_file))
    text = arguments.text_file.read_text(errors="replace")[:10_000_000]
    start = time.perf_counter()
    for line in text.splitlines():
        tokenizer.encode(line, add_special_tokens=False)
    return len(text.encode()) / 1e6 / (time.perf_counter() - start)


def _read(data_dir: str, seconds: float = 5.0) -> float:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import tensorflow as tf  # noqa: PLC0415  (after the settings above)

    from electra_cli.config import default_config  # noqa: PLC0415
    from electra_cli.config.resolution import resolve  # noqa: PLC0415
    from electra_cli.data.input_pipeline import training_dataset  # noqa: PLC0415
    from electra_cli.data.masking import masking_settings  # noqa: PLC0415
    from electra_cli.data.source import open_data  # noqa: PLC0415

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    config = default_config()
    config.data.dir = data_dir
    source = open_data(data_dir, config.data.max_seq_length)
    resolved = resolve(config, source.vocabulary.size)
    batch_size = config.train.global_batch_size
    dataset = training_dataset(
        source.train,
        masking_settings(resolved, source),
        pad_id=source.vocabulary.pad_id,
        max_seq_length=config.data.max_seq_length,
        global_batch_size=batch_size,
        seed=0,
        start_step=0,
    )
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    batches = iter(dataset.with_options(options))
    next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        count += batch_size
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
