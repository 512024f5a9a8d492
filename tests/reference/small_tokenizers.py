"""Tokenizer files of the small encoders in make_encoders.py: few tokens, formats as published checkpoints have them."""

import base64
import json
import zlib

WORDS = """[PAD] [UNK] [CLS] [SEP] [MASK] the a film was good bad very un ##happy ##ly happy cafe café Film Good ! . , ?
我 b c d e f g h ##a ##b ##c ##d ##e ##f ##g s ##s not it is ##n ##t ' t one two three who why""".split()
PIECES = ["▁the", "▁film", "▁was", "▁good", "▁bad", "▁very", "▁un", "happy", "▁happy", "▁caf", "é", "!", ",", ".", "?", "▁"]
PIECES += [chr(c) for c in range(ord("a"), ord("z") + 1)] + ["T", "C"]
# What SentencePiece makes of seven rules: U+00A0, U+3000 and a tab become a space, U+FB01 "fi", U+FF01 "!", U+2026 "...", and
# U+200B nothing. Made with SentencePieceTrainer's normalization_rule_tsv; compressed.
CHARSMAP = base64.b64encode(zlib.decompress(base64.b64decode("""
eNol03mwjlUcB/Dfe93+6A/GTsZ2pRjLzb6ULUkIhejasl+uSkmWFnUvZSd7Klu2LEWhusq1lH2UVlRky2AmEi208Xl1Zj7P95znd+bMmTnnRGpE
lI+4OX9EIiJ78U0+lVNisrGWnRxmp6ZEdvWItyMlcsqY61+Oej5ZwKRCFKQIhSlGUUpQnFsoyeaMlCglLRGlKUdZ0v7fQtxKBW6jIpW4nRV5EZVl
VapgK1GNO0inJjWoTS3qUof61KMhDbiLO2lMI5rShLtpxj00515acB8taU0r7qcN7WjLA7SnAw/SiY505iEepgtdyaA73ehJD3rxCH3oTT/6MoD+
DCSTLAbxKIN5nMd4giEM5UmG8RTDeZqRjOAZRvEczzKa53mRF8hJHjRjGcPLvMR4xjGRCUxmElOZwitMYwbTmcVM5jCbV5nLa8zjDV5nAfNZxELe
ZDFLWcJylvFW8uxZxUrWsJp3InkXI9axlvd4lw2s53028iEfsIlcPuYj8pJ3ka1sYTvb+JRP2MkOdrOLvexJ1pYlYp/8jP0c4HO+5Au+5iu+5RsO
cZDvOMwPfM9RjnCMHznBcU5xktP8xBl+SU3EOXk2WctNxKkpiTiv/3OyxgV+5SKXucTv/Maf/MFVrvA3f/Ev/3CN/+LG40uL9PT0yMyK60+kjIY="""))).decode()


def byte_level():
    """A byte-level vocabulary: special tokens, the 256 byte symbols, and a few merges."""
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    symbols = {b: chr(b) for b in printable}
    for b in range(256):
        symbols.setdefault(b, chr(256 + len([x for x in range(b) if x not in printable])))
    merges = ["h e", "Ġ t", "Ġt he", "Ġ w", "a s", "Ġw as", "f i", "l m", "fi lm", "Ġ film", "o o", "g oo", "goo d"]
    tokens = ["<s>", "<pad>", "</s>", "<unk>"] + [symbols[b] for b in range(256)] + [m.replace(" ", "") for m in merges] + ["<mask>"]
    return {token: at for at, token in enumerate(tokens)}, merges


def unigram():
    """A SentencePiece-like tokenizer.json, as XLM-RoBERTa and CamemBERT have."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    scored = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    scored += [(piece, -1.0 - at / 10) for at, piece in enumerate(PIECES)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer.to_str()


def tokenizer_files(kind):
    """The files by name. Where a kind is a family's, its tokenizer.json is put together as published ones of the family are."""
    makers = {"mpnet": mpnet, "modernbert": modernbert, "mmbert": mmbert, "albert": albert, "deberta-v2": deberta}
    if kind in makers:
        return makers[kind]()
    if kind == "unigram":
        return {"tokenizer.json": unigram(), "tokenizer_config.json": json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})}
    if kind == "byte_level":
        vocabulary, merges = byte_level()
        return {
            "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
            "merges.txt": "#version: 0.2\n" + "\n".join(merges) + "\n",
            "tokenizer_config.json": json.dumps({"tokenizer_class": "RobertaTokenizer"}),
        }
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": kind == "uncased"}
    return {"vocab.txt": "\n".join(WORDS) + "\n", "tokenizer_config.json": json.dumps(config)}


def config_of(tokenizer_class, **fields):
    return json.dumps({"tokenizer_class": tokenizer_class, **fields})


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


def special(tokens, **fields):
    """The entries of `added_tokens` in tokenizer.json, for (id, content)."""
    return [
        {"id": at, "content": content, "single_word": False, "lstrip": content in ("<mask>", "[MASK]"), "rstrip": False,
         "normalized": False, "special": True, **fields}
        for at, content in tokens
    ]


def mpnet():
    """WordPiece between fairseq's special tokens, which stand before and after BERT's vocabulary."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>"] + WORDS + ["<mask>"]
    ids = {token: at for at, token in enumerate(tokens)}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special((ids[token], token) for token in ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"]),
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True, "add_prefix_space": False},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": ids},
    }
    config = config_of(
        "MPNetTokenizer", do_lower_case=True, strip_accents=None, tokenize_chinese_chars=True, model_max_length=64,
        bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>", unk_token="[UNK]", pad_token="<pad>", mask_token="<mask>",
    )
    return {"tokenizer.json": json.dumps(tokenizer, ensure_ascii=False), "vocab.txt": "\n".join(tokens) + "\n", "tokenizer_config.json": config}


def template(cls, sep):
    """A post-processor: `cls A sep`, and `cls A sep B sep`. Each is (token, id)."""
    piece = lambda name, kind: {"SpecialToken": {"id": name, "type_id": kind}}
    text = lambda name, kind: {"Sequence": {"id": name, "type_id": kind}}
    single = [piece(cls[0], 0), text("A", 0), piece(sep[0], 0)]
    pair = single + [text("B", 1), piece(sep[0], 1)]
    tokens = {token: {"id": token, "ids": [at], "tokens": [token]} for token, at in (cls, sep)}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}


def modernbert():
    """Byte-level BPE with OLMo's runs of spaces and BERT's special tokens after the vocabulary."""
    ids, merges = byte_level()
    ids = {token: at for at, token in enumerate(token for token in ids if not token.startswith("<"))}
    spaces = [(len(ids) + at, " " * (4 - at)) for at in range(3)]
    named = [(len(ids) + 3 + at, token) for at, token in enumerate(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"])]
    ids_of = {token: at for at, token in named}
    byte = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special(spaces, normalized=True, special=False) + special(named),
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": byte,
        "post_processor": template(("[CLS]", ids_of["[CLS]"]), ("[SEP]", ids_of["[SEP]"])),
        "decoder": byte,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": ids, "merges": merges,
        },
    }
    config = config_of(
        "PreTrainedTokenizerFast", clean_up_tokenization_spaces=True, cls_token="[CLS]", mask_token="[MASK]", pad_token="[PAD]",
        sep_token="[SEP]", unk_token="[UNK]", model_input_names=["input_ids", "attention_mask"], model_max_length=64,
    )
    return {"tokenizer.json": json.dumps(tokenizer, ensure_ascii=False), "tokenizer_config.json": config}


def mmbert():
    """BPE over characters that falls back to bytes, with Gemma's special tokens, as mmBERT has it."""
    named = list(enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]))
    characters = ["▁"] + [chr(c) for c in range(ord("a"), ord("z") + 1)] + ["T", "C", "é", "!", ",", "."]
    merges = [
        "h e", "▁ t", "▁t he", "T he", "▁ w", "a s", "▁w as", "f i", "l m", "fi lm", "▁ film", "o o", "g oo", "goo d", "▁ good",
        "▁ b", "a d", "▁b ad", "u n", "h a", "p p", "ha pp", "happ y", "▁ happy", "▁ v", "e r", "▁v er", "▁ver y", "▁ i", "i t", "▁ it",
    ]
    tokens = [token for _, token in named] + [f"<0x{b:02X}>" for b in range(256)] + characters + [m.replace(" ", "") for m in merges]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special(named),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        "post_processor": template(("<bos>", 2), ("<eos>", 1)),
        "decoder": {
            "type": "Sequence",
            "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}],
        },
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": {token: at for at, token in enumerate(tokens)}, "merges": merges,
        },
    }
    config = config_of(
        "PreTrainedTokenizerFast", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>", mask_token="<mask>",
        add_bos_token=True, add_eos_token=True, clean_up_tokenization_spaces=False, model_input_names=["input_ids", "attention_mask"],
        model_max_length=64,
    )
    return {"tokenizer.json": json.dumps(tokenizer, ensure_ascii=False), "tokenizer_config.json": config}


def scored(named, pieces):
    return [[token, 0.0] for token in named] + [[piece, -1.0 - at / 10] for at, piece in enumerate(pieces)]


def albert():
    """SentencePiece Unigram over lower-cased text without accents."""
    named = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special(enumerate(named)),
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Replace", "pattern": {"String": "``"}, "content": '"'},
                {"type": "Replace", "pattern": {"String": "''"}, "content": '"'},
                {"type": "NFKD"},
                {"type": "StripAccents"},
                {"type": "Lowercase"},
                {"type": "Precompiled", "precompiled_charsmap": CHARSMAP},
            ],
        },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]},
        "post_processor": template(("[CLS]", 2), ("[SEP]", 3)),
        "decoder": METASPACE,
        "model": {"type": "Unigram", "unk_id": 1, "vocab": scored(named, PIECES[:-2])},
    }
    config = config_of(
        "AlbertTokenizer", do_lower_case=True, remove_space=True, keep_accents=False, bos_token="[CLS]", eos_token="[SEP]",
        unk_token="<unk>", sep_token="[SEP]", pad_token="<pad>", cls_token="[CLS]", mask_token="[MASK]", model_max_length=64,
    )
    return {"tokenizer.json": json.dumps(tokenizer, ensure_ascii=False), "tokenizer_config.json": config}


def deberta():
    """SentencePiece Unigram as transformers converts spm.model of DeBERTa-v3: [MASK] comes after the vocabulary."""
    named = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    vocabulary = scored(named, PIECES)
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special([*enumerate(named), (len(vocabulary), "[MASK]")], lstrip=False),
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Strip", "strip_left": True, "strip_right": True},
                {"type": "Precompiled", "precompiled_charsmap": CHARSMAP},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            ],
        },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [METASPACE]},
        "post_processor": template(("[CLS]", 1), ("[SEP]", 2)),
        "decoder": METASPACE,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocabulary},
    }
    config = config_of(
        "DebertaV2Tokenizer", do_lower_case=False, vocab_type="spm", bos_token="[CLS]", eos_token="[SEP]", unk_token="[UNK]",
        sep_token="[SEP]", pad_token="[PAD]", cls_token="[CLS]", mask_token="[MASK]", split_by_punct=False, model_max_length=64,
    )
    return {"tokenizer.json": json.dumps(tokenizer, ensure_ascii=False), "tokenizer_config.json": config}
