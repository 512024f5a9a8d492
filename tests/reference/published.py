"""config.json of small encoders, spelled as published checkpoints of the family spell it: for make_encoders.py.

`PUBLISHED` has the kind of tokenizer and config.json by name of the fixture; `MORE_TEXTS` are texts of one fixture only.
"""

from small_tokenizers import PIECES, WORDS

SIZES = dict(hidden_size=32, num_attention_heads=4, intermediate_size=48)
PUBLISHED = {
    "mpnet": (
        "mpnet",
        dict(
            architectures=["MPNetForMaskedLM"], attention_probs_dropout_prob=0.1, bos_token_id=0, eos_token_id=2, hidden_act="gelu",
            hidden_dropout_prob=0.1, initializer_range=0.02, layer_norm_eps=1e-5, max_position_embeddings=66, model_type="mpnet",
            num_hidden_layers=2, pad_token_id=1, relative_attention_num_buckets=32, torch_dtype="float32", transformers_version="4.8.2",
            vocab_size=len(WORDS) + 5, **SIZES,
        ),
    ),
    # As transformers 4 writes it. Layers 0 and 3 are global. A local layer reaches local_attention / 2 tokens to each side.
    "modernbert": (
        "modernbert",
        dict(
            architectures=["ModernBertForMaskedLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=272, classifier_activation="gelu",
            classifier_bias=False, classifier_dropout=0.0, classifier_pooling="mean", cls_token_id=272, decoder_bias=True,
            deterministic_flash_attn=False, embedding_dropout=0.0, eos_token_id=273, global_attn_every_n_layers=3, global_rope_theta=160000.0,
            gradient_checkpointing=False, hidden_activation="gelu", initializer_cutoff_factor=2.0, initializer_range=0.02, layer_norm_eps=1e-5,
            local_attention=4, local_rope_theta=10000.0, max_position_embeddings=64, mlp_bias=False, mlp_dropout=0.0, model_type="modernbert",
            norm_bias=False, norm_eps=1e-5, num_hidden_layers=4, pad_token_id=274, position_embedding_type="absolute", sep_token_id=273,
            tie_word_embeddings=True, torch_dtype="float32", transformers_version="4.47.0.dev0", vocab_size=280, **SIZES,
        ),
    ),
    # As transformers 5 writes it, with the activation and thetas of granite-embedding's multilingual models. layer_norm_eps is
    # what older files also have: only norm_eps counts.
    "modernbert-2": (
        "mmbert",
        dict(
            architectures=["ModernBertModel"], attention_bias=False, attention_dropout=0.0, bos_token_id=2, classifier_activation="gelu",
            classifier_bias=False, classifier_dropout=0.0, classifier_pooling="mean", cls_token_id=1, decoder_bias=True,
            deterministic_flash_attn=False, dtype="float32", embedding_dropout=0.0, eos_token_id=1, global_attn_every_n_layers=2,
            gradient_checkpointing=False, hidden_activation="silu", initializer_cutoff_factor=2.0, initializer_range=0.02, layer_norm_eps=1e-5,
            layer_types=["full_attention", "sliding_attention", "full_attention", "sliding_attention"], local_attention=6,
            max_position_embeddings=64, mlp_bias=False, mlp_dropout=0.0, model_type="modernbert", norm_bias=False, norm_eps=1e-3,
            num_hidden_layers=4, pad_token_id=0, position_embedding_type="sans_pos",
            rope_parameters={
                "full_attention": {"rope_theta": 150000.0, "rope_type": "default"},
                "sliding_attention": {"rope_theta": 160000.0, "rope_type": "default"},
            },
            sep_token_id=1, sparse_pred_ignore_index=-100, sparse_prediction=False, tie_word_embeddings=False, transformers_version="5.0.0",
            vocab_size=325, **SIZES,
        ),
    ),
    # One layer's matrices three times, and embeddings narrower than the hidden states.
    "albert": (
        "albert",
        dict(
            architectures=["AlbertForMaskedLM"], attention_probs_dropout_prob=0, bos_token_id=2, classifier_dropout_prob=0.1,
            down_scale_factor=1, embedding_size=16, eos_token_id=3, gap_size=0, hidden_act="gelu_new", hidden_dropout_prob=0,
            initializer_range=0.02, inner_group_num=1, layer_norm_eps=1e-12, max_position_embeddings=64, model_type="albert",
            net_structure_type=0, num_hidden_groups=1, num_hidden_layers=3, num_memory_blocks=0, pad_token_id=0, type_vocab_size=2,
            vocab_size=len(PIECES) + 3, **SIZES,
        ),
    ),
    # Eight buckets are few enough for distances of several tokens to share one.
    "deberta-v3": (
        "deberta-v2",
        dict(
            model_type="deberta-v2", attention_probs_dropout_prob=0.1, hidden_act="gelu", hidden_dropout_prob=0.1, initializer_range=0.02,
            max_position_embeddings=64, relative_attention=True, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True,
            pos_att_type="p2c|c2p", layer_norm_eps=1e-7, max_relative_positions=-1, position_biased_input=False, num_hidden_layers=2,
            type_vocab_size=0, vocab_size=len(PIECES) + 5, **SIZES,
        ),
    ),
    # deberta-v2-xlarge's convolution beside the first layer, as transformers writes the file.
    "deberta-v2": (
        "deberta-v2",
        dict(
            architectures=["DebertaV2Model"], attention_head_size=8, attention_probs_dropout_prob=0.1, conv_act="gelu", conv_kernel_size=3,
            hidden_act="gelu", hidden_dropout_prob=0.1, initializer_range=0.02, layer_norm_eps=1e-7, max_position_embeddings=64,
            max_relative_positions=-1, model_type="deberta-v2", norm_rel_ebd="layer_norm", num_hidden_layers=2, pad_token_id=0,
            pooler_dropout=0, pooler_hidden_act="gelu", pooler_hidden_size=32, pos_att_type=["p2c", "c2p"], position_biased_input=False,
            position_buckets=16, relative_attention=True, share_att_key=True, torch_dtype="float32", transformers_version="4.28.1",
            type_vocab_size=0, vocab_size=len(PIECES) + 5, **SIZES,
        ),
    ),
    # nomic-embed-text-v1.5: its file has the names of its own code, and since transformers 5 transformers' names too.
    "nomic": (
        "uncased",
        dict(
            activation_function="swiglu", architectures=["NomicBertModel"], attn_pdrop=0.0, bos_token_id=None, causal=False,
            dense_seq_output=True, embd_pdrop=0.0, eos_token_id=None, fused_bias_fc=True, fused_dropout_add_ln=True, hidden_act="silu",
            initializer_range=0.02, layer_norm_eps=1e-12, layer_norm_epsilon=1e-12, max_position_embeddings=48, max_trained_positions=48,
            mlp_fc1_bias=False, mlp_fc2_bias=False, model_type="nomic_bert", n_embd=32, n_head=4, n_inner=48, n_layer=2, n_positions=64,
            num_hidden_layers=2, pad_vocab_size_multiple=64, parallel_block=False, parallel_block_tied_norm=False, prenorm=False,
            qkv_proj_bias=False, resid_pdrop=0.0, rope_parameters={"rope_theta": 1000.0, "rope_type": "default"}, rotary_emb_base=1000,
            rotary_emb_fraction=1.0, rotary_emb_interleaved=False, rotary_emb_scale_base=None, rotary_scaling_factor=None,
            type_vocab_size=2, use_cache=True, use_flash_attn=True, use_rms_norm=False, vocab_size=64, **SIZES,
        ),
    ),
    # GTE as transformers 5 has it.
    "gte": (
        "unigram",
        dict(
            architectures=["GteModel"], attention_probs_dropout_prob=0.0, bos_token_id=0, classifier_dropout=0.0, dtype="float32",
            eos_token_id=2, hidden_act="gelu", hidden_dropout_prob=0.1, initializer_range=0.02, layer_norm_eps=1e-12,
            max_position_embeddings=64, model_type="gte", num_hidden_layers=2, pad_token_id=1,
            rope_parameters={"rope_theta": 160000.0, "rope_type": "default"}, tie_word_embeddings=True, transformers_version="5.14.0",
            type_vocab_size=1, vocab_size=52, **SIZES,
        ),
    ),
    # The same family as its own code reads it, with scaled positions and no token types.
    "gte-new": (
        "uncased",
        dict(
            architectures=["NewModel"], attention_probs_dropout_prob=0.0, classifier_dropout=None, hidden_act="gelu", hidden_dropout_prob=0.1,
            initializer_range=0.02, layer_norm_eps=1e-12, layer_norm_type="layer_norm", logn_attention_clip1=False,
            logn_attention_scale=False, max_position_embeddings=64, model_type="new", num_hidden_layers=2, pack_qkv=True, pad_token_id=0,
            position_embedding_type="rope", rope_scaling={"factor": 8.0, "type": "ntk"}, rope_theta=20000, torch_dtype="float32",
            transformers_version="4.39.1", type_vocab_size=0, unpad_inputs=False, use_memory_efficient_attention=False,
            vocab_size=len(WORDS), **SIZES,
        ),
    ),
}


def native(fields):
    """config.json with the names that transformers reads.

    GTE's own code, of model_type `new`, multiplies theta by the factor and divides every frequency by factor^(2 / width of a
    head). transformers has the same as `linear` scaling.
    """
    if fields["model_type"] != "new":
        return fields
    factor, head = fields["rope_scaling"]["factor"], fields["hidden_size"] // fields["num_attention_heads"]
    rope = {"rope_type": "linear", "rope_theta": fields["rope_theta"] * factor, "factor": factor ** (2 / head)}
    kept = {name: value for name, value in fields.items() if name not in ("rope_scaling", "rope_theta")}
    return {**kept, "model_type": "gte", "rope_parameters": rope}


# The token for padding in the midst of a text: RoBERTa's positions do not count it.
PADDING = ["the film <pad> was <pad><pad> good"]
MORE_TEXTS = {
    "roberta": [PADDING],
    "xlm-roberta": [PADDING],
    "camembert": [PADDING],
    # Long enough for the buckets of MPNet that stand for several distances.
    "mpnet": [[
        "Why was the film not good? One, it was very bad, and two, the cafe was not happy. Who was happy? "
        "The film was a good film, the cafe was a bad cafe, three very happy films!"
    ], PADDING],
    # What the character map of the tokenizer changes: a ligature, an ideographic space, a full-width mark, an ellipsis.
    "albert": [["The ﬁlm\u3000was good！…"]],
}
