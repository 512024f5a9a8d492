//! Where a checkpoint has what a bundle has under a name of its own: one of several modules whose tensors lie side by
//! side in one, and a repetition of a layer that a checkpoint has once.
//!
//! In: a family, and the name of a module. Out: the module of the checkpoint, and which part of its tensors' rows; and the
//! module of transformers' models, which may have other names than their checkpoints. Most modules have their own name
//! there, and all rows. Nothing is refused.

use crate::Family;

/// One of several equal parts of a tensor's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its number.
    pub at: usize,
    /// How many there are.
    pub of: usize,
}

impl Part {
    /// All rows.
    pub const WHOLE: Part = Part { at: 0, of: 1 };

    /// The part of the values of a tensor.
    pub fn take<'a, T>(&self, values: &'a [T]) -> &'a [T] {
        let count = values.len() / self.of;
        &values[self.at * count..][..count]
    }
}

/// The last names of the modules of one tensor, in the order of its rows.
type Fused = (&'static str, &'static [&'static str]);

const QKV: &[&str] = &["query", "key", "value"];

impl Family {
    fn fused(self) -> &'static [Fused] {
        match self {
            Family::ModernBert => &[("attn.Wqkv", QKV), ("mlp.Wi", &["middle", "gate"])],
            Family::NomicBert => &[("attn.Wqkv", QKV)],
            Family::Gte => &[("attention.qkv_proj", QKV), ("mlp.up_gate_proj", &["gate", "middle"])],
            Family::Bert
            | Family::Roberta
            | Family::DistilBert
            | Family::Electra
            | Family::MpNet
            | Family::Albert
            | Family::DebertaV2
            | Family::Onnx => &[],
        }
    }

    /// What transformers calls a module in its model, and its adapters, if not as checkpoints do.
    pub fn in_transformers(self, module: &str) -> Option<String> {
        let (layers, names): (&str, &[[&str; 2]]) = match self {
            Family::NomicBert => (
                "encoder.layers.",
                &[
                    ["attn.Wqkv.query", "self_attn.q_proj"],
                    ["attn.Wqkv.key", "self_attn.k_proj"],
                    ["attn.Wqkv.value", "self_attn.v_proj"],
                    ["attn.out_proj", "self_attn.o_proj"],
                    ["norm1", "post_attention_layernorm"],
                    // Transformers' gate is the part that the activation is applied to.
                    ["mlp.fc12", "mlp.gate_proj"],
                    ["mlp.fc11", "mlp.up_proj"],
                    ["mlp.fc2", "mlp.down_proj"],
                    ["norm2", "post_mlp_layernorm"],
                ],
            ),
            Family::Gte => (
                "encoder.layer.",
                &[
                    ["attention.qkv_proj.query", "self_attn.q_proj"],
                    ["attention.qkv_proj.key", "self_attn.k_proj"],
                    ["attention.qkv_proj.value", "self_attn.v_proj"],
                    ["attention.o_proj", "self_attn.o_proj"],
                    ["attn_ln", "post_attention_layernorm"],
                    ["mlp.up_gate_proj.middle", "mlp.gate_proj"],
                    ["mlp.up_gate_proj.gate", "mlp.up_proj"],
                    ["mlp.down_proj", "mlp.down_proj"],
                    ["mlp_ln", "post_mlp_layernorm"],
                ],
            ),
            _ => return None,
        };
        if module == "emb_ln" {
            return Some("embeddings.LayerNorm".to_owned());
        }
        let (layer, rest) = module.strip_prefix(layers)?.split_once('.')?;
        let [_, name] = names.iter().find(|[own, _]| *own == rest)?;
        Some(format!("layers.{layer}.{name}"))
    }

    /// The module of a checkpoint whose tensors hold those of a module of the bundle, and the part of their rows.
    pub fn in_checkpoint(self, module: &str) -> (String, Part) {
        /// What comes before the number of a repetition in the bundle, and the layer that is repeated.
        const REPEATED: (&str, &str) = ("encoder.repetition.", "encoder.albert_layer_groups.0.albert_layers.0.");
        if self == Family::Albert
            && let Some((_, rest)) = module.strip_prefix(REPEATED.0).and_then(|rest| rest.split_once('.'))
        {
            return (format!("{}{rest}", REPEATED.1), Part::WHOLE);
        }
        let (before, last) = module.rsplit_once('.').unwrap_or((module, ""));
        for (fused, parts) in self.fused() {
            if let Some(at) = parts.iter().position(|part| *part == last).filter(|_| before.ends_with(fused)) {
                return (before.to_owned(), Part { at, of: parts.len() });
            }
        }
        (module.to_owned(), Part::WHOLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_in_checkpoints() {
        for (family, module, due, at, of) in [
            (Family::Bert, "encoder.layer.0.attention.self.query", "encoder.layer.0.attention.self.query", 0, 1),
            (Family::ModernBert, "layers.3.attn.Wqkv.value", "layers.3.attn.Wqkv", 2, 3),
            (Family::ModernBert, "layers.3.mlp.Wi.gate", "layers.3.mlp.Wi", 1, 2),
            (Family::ModernBert, "layers.3.mlp.Wo", "layers.3.mlp.Wo", 0, 1),
            (Family::Gte, "encoder.layer.1.mlp.up_gate_proj.middle", "encoder.layer.1.mlp.up_gate_proj", 1, 2),
            (Family::Gte, "encoder.layer.1.attention.qkv_proj.key", "encoder.layer.1.attention.qkv_proj", 1, 3),
            (Family::NomicBert, "encoder.layers.1.attn.Wqkv.query", "encoder.layers.1.attn.Wqkv", 0, 3),
            (Family::NomicBert, "encoder.layers.1.mlp.fc11", "encoder.layers.1.mlp.fc11", 0, 1),
            (
                Family::Albert,
                "encoder.repetition.11.ffn_output",
                "encoder.albert_layer_groups.0.albert_layers.0.ffn_output",
                0,
                1,
            ),
            (Family::Albert, "embeddings.LayerNorm", "embeddings.LayerNorm", 0, 1),
        ] {
            assert_eq!(family.in_checkpoint(module), (due.to_owned(), Part { at, of }));
        }
        for (family, module, due) in [
            (Family::NomicBert, "encoder.layers.1.attn.Wqkv.key", Some("layers.1.self_attn.k_proj")),
            (Family::NomicBert, "emb_ln", Some("embeddings.LayerNorm")),
            (Family::NomicBert, "pooler.dense", None),
            (Family::Gte, "encoder.layer.11.mlp.up_gate_proj.middle", Some("layers.11.mlp.gate_proj")),
            (Family::ModernBert, "layers.1.attn.Wo", None),
            (Family::Bert, "encoder.layer.1.output.dense", None),
        ] {
            assert_eq!(family.in_transformers(module).as_deref(), due, "{module}");
        }
        assert_eq!(Part { at: 1, of: 3 }.take(&[1, 2, 3, 4, 5, 6]), [3, 4]);
    }
}
