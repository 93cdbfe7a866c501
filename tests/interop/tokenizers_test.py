"""Tokenizers with a model, of byte-level BPE and SentencePiece, go to Hugging Face and back with the same ids."""

import functools
import json
import shutil

import pytest
import sentencepiece
import transformers
from tokenizers import AddedToken, normalizers, processors

from electra_cli import api
from electra_cli.data.tokenization import read_tokenizer
from electra_cli.errors import Interrupted, UserError
from electra_cli.finetuning.model import load_fine_tuned
from electra_cli.interop import exporting, starting_points
from electra_cli.interop.runs import load_run
from electra_cli.loggers.logger import Logger
from electra_cli.objectives import weights as weights_module
from tests.conftest import make_text, prepare_small, small_config
from tests.finetuning import synthetic
from tests.finetuning.common import train_byte_level, train_sentencepiece
from tests.graphs import without_graphs
from tests.interop.common import make_run, make_workdir
from tests.interop.huggingface_test import import_from
from tests.interop.modernbert_test import MODERN, hf_config
from tests.training import loop_test

LINES = [
    "the quick brown fox isn't it? in 1863 it's   fine",
    "Das Café öffnet; 東京 и Москва",
    *make_text(20).splitlines(),
]
TEXTS = ["the  quick fox", " a Café\tin 東京", "it's [MASK], isn't it?", "naïve e\u0301 🙂", "   ", ""]
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def silent(_):
    pass


def byte_level(path, kind):
    options = {"add_prefix_space": True, "names": ROBERTA} if kind == "roberta" else {"normalizer": normalizers.NFC()}
    tokenizer = train_byte_level(path, LINES, 340, **options)
    tokenizer.add_tokens(["   ", AddedToken("|||IP_ADDRESS|||")])
    tokenizer.save(str(path))
    return read_tokenizer(str(path))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Returns a tokenizer ('roberta', 'modernbert' or 'sentencepiece') and the workdir of a run with it."""
    root = tmp_path_factory.mktemp("pretrained")

    @functools.cache
    def make(kind):
        if kind == "sentencepiece":
            train_sentencepiece(root / "spm.model", LINES, 90)
            settings = read_tokenizer(str(root / "spm.model"))
        else:
            settings = byte_level(root / f"{kind}.json", kind)
        return settings, str(make_workdir(root / kind, tokenizer=settings, **{"model.num_layers": 1}))

    return make


def config_with(vocab_size):
    config = hf_config()
    config.vocab_size = vocab_size
    return config


def ids_with_special_tokens(settings, text):
    """Of a text in which '[MASK]', if any, has a space before it."""
    vocabulary, encoder = settings.vocabulary, settings.build()
    ids = [vocabulary.cls_id]
    for index, segment in enumerate(text.split(" [MASK]")):
        ids += [vocabulary.mask_id] * bool(index) + encoder.encode_lines([segment])[0].tolist()
    return [*ids, vocabulary.sep_id]


@pytest.mark.parametrize(("kind", "network"), [("roberta", "modern"), ("modernbert", "electra")])  # the unusual pairs
def test_a_run_with_byte_level_bpe_goes_to_transformers_and_back(tmp_path, kind, network):
    settings = byte_level(tmp_path / "given.json", kind)
    run = make_run(tmp_path / "run", tokenizer=settings, **(MODERN if network == "modern" else {}))
    exporting.export_run(run, "huggingface", "both", str(tmp_path / "out"), overwrite=False, notice=silent)
    folder = tmp_path / "out" / "discriminator"
    assert not (folder / "vocab.txt").exists()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    names = ROBERTA if kind == "roberta" else ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
    assert (
        tokenizer.cls_token,
        tokenizer.pad_token,
        tokenizer.sep_token,
        tokenizer.unk_token,
        tokenizer.mask_token,
    ) == names
    for text in TEXTS:
        theirs = tokenizer(text.replace("[MASK]", tokenizer.mask_token))
        assert theirs["input_ids"] == ids_with_special_tokens(settings, text)
        assert ("token_type_ids" in theirs) == (network == "electra")
    first, second = (settings.build().encode_lines([text])[0].tolist() for text in TEXTS[:2])
    cls, sep = settings.vocabulary.cls_id, settings.vocabulary.sep_id
    pair = tokenizer(*TEXTS[:2], return_token_type_ids=True)
    assert pair["input_ids"] == [cls, *first, sep, *second, sep]
    assert pair["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert tokenizer.decode(second).strip() == TEXTS[1].strip() and tokenizer.model_max_length == 48
    back = import_from(folder, tmp_path / "back", generator_source=tmp_path / "out" / "generator")
    assert weights_module.are_equal(*(weights_module.read(each.model) for each in (run, back)))
    assert back.tokenizer.vocabulary == run.tokenizer.vocabulary
    assert (tmp_path / "back" / "tokenizer.json").exists()
    lines = [text for text in TEXTS if "MASK" not in text]
    assert back.tokenizer.build().encode_lines(lines) == settings.build().encode_lines(lines)
    start = starting_points.open_starting_point(str(folder), "discriminator", Logger())
    assert start.tokenizer.build().encode_lines(lines) == settings.build().encode_lines(lines)
    filled = api.load(str(tmp_path / "back")).fill_mask(["the [MASK] fox"], top_k=2)
    assert len(filled[0][0]) == 2


def test_a_folder_as_of_modernbert_is_imported(tmp_path):
    settings = byte_level(tmp_path / "given.json", "modernbert")
    model = transformers.ModernBertForMaskedLM(config_with(settings.vocabulary.size + 7))
    model.save_pretrained(tmp_path / "source")
    given = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "given.json"), cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
        unk_token="[UNK]", mask_token="[MASK]", model_max_length=40, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    given._tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, settings.vocabulary.tokens.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    given.save_pretrained(tmp_path / "source")
    lines = []
    run = import_from(tmp_path / "source", tmp_path / "ours", lines.append)
    assert run.tokenizer.vocabulary.tokens[: settings.vocabulary.size] == settings.vocabulary.tokens
    assert run.tokenizer.vocabulary.size == settings.vocabulary.size + 7
    assert any(f"--vocab_file={tmp_path}/ours/tokenizer.json --output_dir=DATA" in line for line in lines)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "source")
    for text in [text for text in TEXTS if "MASK" not in text]:
        assert tokenizer(text)["input_ids"] == ids_with_special_tokens(run.tokenizer, text)
    exporting.export_run(run, "huggingface", "generator", str(tmp_path / "again"), overwrite=False, notice=silent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"add_prefix_space": True}, "add_prefix_space is True, and not in tokenizer.json: make them equal; to use"),
        (
            {"added_tokens_decoder": {"999": {"content": "new"}}},
            "the added token 'new' is not in tokenizer.json: add it",
        ),
    ],
)
def test_a_config_that_changes_the_tokens_is_refused(tmp_path, changes, message):
    settings = byte_level(tmp_path / "given.json", "modernbert")
    transformers.ModernBertModel(config_with(settings.vocabulary.size)).save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "tokenizer.json").write_bytes((tmp_path / "given.json").read_bytes())
    (tmp_path / "source" / "tokenizer_config.json").write_text(json.dumps(changes))
    with pytest.raises(UserError) as error:
        import_from(tmp_path / "source", tmp_path / "ours")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_saved_model_of_bytes_is_refused_before_work(tmp_path, pretrained):
    run = load_run(pretrained("roberta")[1], notice=silent)
    with pytest.raises(UserError, match=r"^--format=saved_model takes text, and TensorFlow has no byte-level BPE"):
        exporting.export_run(run, "saved_model", "discriminator", str(tmp_path / "out"), overwrite=False)
    assert not (tmp_path / "out").exists()
    exporting.export_run(run, "tfm", "discriminator", str(tmp_path / "out"), overwrite=False, notice=silent)


@pytest.mark.parametrize("options", [{}, {"pad_id": 3, "user_defined_symbols": ["<br>"], "add_dummy_prefix": False}])
def test_a_unigram_of_sentencepiece_goes_to_transformers(tmp_path, options):
    with open(tmp_path / "spm.model", "wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LINES), model_writer=stream, vocab_size=90, minloglevel=2, hard_vocab_limit=False,
            **options,
        )  # fmt: skip
    settings = read_tokenizer(str(tmp_path / "spm.model"))
    run = make_run(tmp_path / "run", tokenizer=settings)
    exporting.export_run(run, "huggingface", "discriminator", str(tmp_path / "out"), overwrite=False, notice=silent)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in [*LINES, *(text for text in TEXTS if "MASK" not in text), "ﬁne ½  中中 <br>x"]:
        assert tokenizer(text)["input_ids"] == ids_with_special_tokens(settings, text), text
    assert tokenizer.unk_token == "<unk>" and tokenizer.pad_token == ("<pad>" if options else "[PAD]")
    assert tokenizer.mask_token_id == settings.vocabulary.mask_id


def test_another_kind_of_sentencepiece_is_refused(tmp_path):
    with open(tmp_path / "spm.model", "wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LINES), model_writer=stream, vocab_size=90, minloglevel=2, model_type="bpe"
        )
    run = make_run(tmp_path / "run", tokenizer=read_tokenizer(str(tmp_path / "spm.model")))
    with pytest.raises(UserError, match="SentencePiece model is not of the type unigram, the only one"):
        exporting.export_run(run, "huggingface", "discriminator", str(tmp_path / "out"), overwrite=False, notice=silent)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tagging", "question_answering", "classification"])
@pytest.mark.parametrize("tokenizer", ["roberta", "modernbert", "sentencepiece"])
def test_what_is_fine_tuned_is_exported_with_its_tokenizer(tmp_path, kind, tokenizer, pretrained):
    settings, workdir = pretrained(tokenizer)
    files = synthetic.write(kind, tmp_path, 64, 12)
    synthetic.fine_tune_briefly(kind, files, str(tmp_path / "tuned"), workdir)
    model = load_fine_tuned(str(tmp_path / "tuned"), notice=silent)
    assert model.tokenizer.vocabulary == settings.vocabulary
    difference = exporting.export_fine_tuned(model, "huggingface", str(tmp_path / "out"), overwrite=False)
    assert difference < 1e-4
    with without_graphs():
        synthetic.predict(str(tmp_path / "tuned"), files["validation"], str(tmp_path / "predictions.jsonl"))
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 12


@pytest.mark.slow
def test_a_run_on_byte_level_data_trains_resumes_and_keeps_its_tokenizer(tmp_path, monkeypatch):
    byte_level(tmp_path / "given.json", "roberta")
    (tmp_path / "text.txt").write_text(make_text(60))
    data, _ = prepare_small(tmp_path / "text.txt", tmp_path / "data", vocab_file=tmp_path / "given.json")
    config = small_config(data)
    config.model.num_layers, config.data.mask_unit = 1, "word"
    config.train.num_steps, config.eval.interval, config.eval.num_samples = 4, 4, 2
    with without_graphs():
        loop_test.train(config, tmp_path / "never_stopped")
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            loop_test.stop_at(patch, 2)
            loop_test.train(config, tmp_path / "run")
        loop_test.train(config, tmp_path / "run")
    loop_test.assert_same_run(tmp_path / "never_stopped", tmp_path / "run")
    shutil.rmtree(data)
    model = api.load(str(tmp_path / "run"))
    assert model.run.tokenizer.model_file == str(tmp_path / "run" / "tokenizer.json")
    ((filled,),) = model.fill_mask(["the [MASK] river"], top_k=3)
    (tokens,) = model.encode(["the river"]).tokens
    assert len(filled) == 3 and tokens[:2] == ["[CLS]", "Ġthe"]
