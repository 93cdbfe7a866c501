"""What is used of tf-models-official: no other module imports it, so that a TensorFlow that it does not support can be
tried by replacing these names alone. Each is imported when it is first asked for, since that takes seconds."""

import importlib
from typing import Any

_MODULES = {
    "BertEncoder": "official.nlp.modeling.networks",
    "BertEncoderConfig": "official.nlp.configs.encoders",
    "ClassificationHead": "official.nlp.modeling.layers.cls_head",
    "EncoderConfig": "official.nlp.configs.encoders",
    "MaskedLM": "official.nlp.modeling.layers.masked_lm",
    "build_encoder": "official.nlp.configs.encoders",
    "evaluate_squad_v1_1": "official.nlp.tools.squad_evaluate_v1_1",
    "evaluate_squad_v2_0": "official.nlp.tools.squad_evaluate_v2_0",
    "get_distribution_strategy": "official.common.distribute_utils",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    attribute = "evaluate" if name.startswith("evaluate_") else name  # both versions' name there
    return getattr(importlib.import_module(_MODULES[name]), attribute)
