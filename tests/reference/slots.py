"""The bias vectors of an encoder by the name of their slot, for make_gradients.py.

A slot is there also where the family has no bias: `prepare` gives such a module a bias of zeros. Vectors that the project
keeps apart although one tensor holds them (the biases of a fused matrix) are parts of it. Key biases are slots too, but
only `KEYS_COUNT` families compute anything else with them: elsewhere a softmax over the keys takes them out again.
"""

import copy

import torch
from torch import nn

KEYS_COUNT = ("modernbert", "deberta-v2", "nomic_bert", "gte")
# What transformers calls the modules of a family whose checkpoints have other names, and those names. Of the two halves of a
# gated MLP, `middle` is the one that goes through the activation, `gate` the one it is multiplied by.
RENAMED = {
    "albert": [("albert_layer_groups", "repetition"), ("albert_layers.0.", "")],
    "nomic_bert": [
        ("embeddings.LayerNorm", "emb_ln"), ("layers.", "encoder.layers."), ("post_attention_layernorm", "norm1"),
        ("post_mlp_layernorm", "norm2"), ("self_attn.q_proj", "attn.Wqkv.query"), ("self_attn.k_proj", "attn.Wqkv.key"),
        ("self_attn.v_proj", "attn.Wqkv.value"), ("self_attn.o_proj", "attn.out_proj"), ("gate_proj", "fc12"), ("up_proj", "fc11"),
        ("down_proj", "fc2"),
    ],
    "gte": [
        ("layers.", "encoder.layer."), ("post_attention_layernorm", "attn_ln"), ("post_mlp_layernorm", "mlp_ln"),
        ("self_attn.q_proj", "attention.qkv_proj.query"), ("self_attn.k_proj", "attention.qkv_proj.key"),
        ("self_attn.v_proj", "attention.qkv_proj.value"), ("self_attn.o_proj", "attention.o_proj"),
        ("gate_proj", "up_gate_proj.middle"), ("mlp.up_proj", "mlp.up_gate_proj.gate"),
    ],
}


def prepare(model):
    """Gives every linear layer and LayerNorm a bias, zero where there is none, and every repetition of a layer its own vectors."""
    if model.config.model_type == "albert":
        # Copies of the layer, one group for each repetition, compute the same.
        model.encoder.albert_layer_groups = nn.ModuleList(
            copy.deepcopy(model.encoder.albert_layer_groups[0]) for _ in range(model.config.num_hidden_layers)
        )
        model.config.num_hidden_groups = model.config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.LayerNorm)) and module.bias is None:
            size = module.weight.shape[0]
            module.bias = nn.Parameter(torch.zeros(size, dtype=module.weight.dtype))


def slots(model):
    """Yields (name of the slot, the parameter that has it, the part of the parameter that it is)."""
    family = model.config.model_type
    for name, parameter in model.named_parameters():
        if not name.endswith(".bias"):
            continue
        for slot, part in parts(family, name, parameter.shape[0]):
            is_key = slot.endswith(("key.bias", "key_proj.bias", "k_lin.bias", "attn.k.bias"))
            if not is_key or family in KEYS_COUNT:
                yield slot, parameter, part


def parts(family, name, size):
    for own, stored in RENAMED.get(family, []):
        name = name.replace(own, stored)
    fused = {}
    if family == "modernbert":
        fused = {".Wqkv.bias": ["query", "key", "value"], ".Wi.bias": ["middle", "gate"]}
    for end, names in fused.items():
        if name.endswith(end):
            step = size // len(names)
            return [(f"{name[: -len('bias')]}{part}.bias", slice(at * step, (at + 1) * step)) for at, part in enumerate(names)]
    return [(name, slice(None))]
