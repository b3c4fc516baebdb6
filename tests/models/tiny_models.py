"""Tiny models of transformers with random weights, as the hub would have them."""

import json
from pathlib import Path

from nml_ray.models.config import EncoderSettings
from nml_ray.models.encoder import seeded
from nml_ray.models.given import leave_encoder


def tiny_bert(directory: Path) -> Path:
    """A BERT of width 8 that knows eight words, beside its tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "red", "green", "kite"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    tokenizer.enable_padding(length=30)  # as some published files have it
    directory.mkdir(parents=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "model_max_length": 12}
    (directory / "tokenizer_config.json").write_text(json.dumps(facts))
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    with seeded(1):
        BertModel(BertConfig(vocab_size=8, max_position_embeddings=12, **sizes)).save_pretrained(directory)
    return directory


def tiny_bert_encoder(directory: Path, pooling: str) -> Path:
    """The same as an encoder's directory."""
    source, target = tiny_bert(directory / "source"), directory / "encoder"
    target.mkdir()
    leave_encoder(EncoderSettings(name="transformers:tiny", weights=str(source), pooling=pooling), target)
    return target
