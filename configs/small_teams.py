"""TEAMS (Shen et al., 2021, arXiv 2106.00139) of ELECTRA-Small's size: detection and selection, in layers they share.

    electra-pretrain --config=small_teams --config.data.dir=DATA --workdir=RUN

By electra-plan 7.6e18 FLOPs (ELECTRA-Small: 1.3e18), 4.2 days on one A100 in float32, 2.2 in bfloat16.

Sizes, batch, steps, optimizer and weights of losses are those of tf-models-official's experiment for it
(official/projects/teams, experiments/small/wiki_books_pretrain.yaml). This project has not trained it to the end.
"""

import ml_collections

from electra_cli.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config with this preset's values."""
    config = default_config()
    config.objective.name = "teams"
    config.objective.discriminator_loss_weight = 5.0
    config.objective.selection_loss_weight = 2.0

    config.data.max_seq_length = 512

    config.optimizer.name = "adamw"

    config.train.num_steps = 500_000
    config.train.global_batch_size = 256
    return config
