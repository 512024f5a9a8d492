//! Heads as Hugging Face's task models name them.
//!
//! In: a checkpoint's tensors, or the head of a patch. Out: the [`Head`], or its tensors. Refused: no head where the task
//! has one, and a head that these names cannot express.

use std::collections::BTreeSet;

use bias_patch::{Activation, Head, Kind, Linear, Patch, Pooling};
use edge_bundle::Family;
use edge_run::tasks;
use hf_checkpoint::{Checkpoint, NamedTensor};

use super::content;
use crate::Result;

/// Module names of a head's layers; embeddings have none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct HeadLayers {
    dense: Option<(&'static str, Activation)>,
    output: Option<&'static str>,
}

impl HeadLayers {
    const NONE: HeadLayers = HeadLayers { dense: None, output: None };

    pub fn modules(&self) -> impl Iterator<Item = &'static str> {
        self.dense.iter().map(|(name, _)| *name).chain(self.output)
    }

    /// Names of the tensors.
    pub fn tensors(&self) -> BTreeSet<String> {
        self.modules().flat_map(|module| [format!("{module}.weight"), format!("{module}.bias")]).collect()
    }

    fn plain(output: &'static str) -> Self {
        HeadLayers { dense: None, output: Some(output) }
    }

    fn classification_head(family: Family) -> Self {
        HeadLayers { dense: Some(("classifier.dense", dense_activation(family))), output: Some("classifier.out_proj") }
    }

    const fn pre_classifier() -> Self {
        HeadLayers { dense: Some(("pre_classifier", Activation::Relu)), output: Some("classifier") }
    }

    /// The head of DeBERTa's model for sequence classification: what its classes call a pooler is a part of it.
    const fn context_pooler() -> Self {
        HeadLayers { dense: Some(("pooler.dense", Activation::Gelu)), output: Some("classifier") }
    }

    /// The head whose hidden layer has the activation of the family's models.
    fn usual(family: Family) -> Self {
        match family {
            Family::DebertaV2 => HeadLayers::context_pooler(),
            _ => HeadLayers::classification_head(family),
        }
    }

    /// The head of a family's model for sequence classification, and what it reads; none if a patch has no such head.
    pub fn of_sequence_classifier(family: Family) -> Option<(Self, Pooling)> {
        match family {
            Family::Bert | Family::Albert | Family::NomicBert | Family::Gte => {
                Some((HeadLayers::plain("classifier"), Pooling::Pooler))
            }
            Family::DistilBert => Some((HeadLayers::pre_classifier(), Pooling::Cls)),
            Family::Roberta | Family::Electra | Family::MpNet => {
                Some((HeadLayers::classification_head(family), Pooling::Cls))
            }
            Family::DebertaV2 => Some((HeadLayers::context_pooler(), Pooling::Cls)),
            // The head of the one has a LayerNorm, and what the other's is nobody knows.
            Family::ModernBert | Family::Onnx => None,
        }
    }

    /// The head that the source has, among those that Hugging Face's task models have. `advice` says how to get one.
    pub fn find(source: &Checkpoint, kind: &Kind, family: Family, advice: &str) -> Result<Self> {
        let has = |module: &str| source.contains(&format!("{module}.weight"));
        if kind.outputs().is_none() {
            return match ["classifier", "classifier.out_proj", "score", "qa_outputs"].into_iter().find(|head| has(head))
            {
                None => Ok(HeadLayers::NONE),
                Some(head) => Err(content(source.path(), "head", "none, for an embedding has none", head)),
            };
        }
        if has("head.dense") {
            let expected = "one of linear layers alone; train a head with edge-patch train";
            return Err(content(
                source.path(),
                "head",
                expected,
                "head.dense and a LayerNorm, as ModernBERT's models have",
            ));
        }
        let plain = tasks::of(kind).checkpoint_modules().iter().map(|output| HeadLayers::plain(output));
        // Classifiers of a whole text may have a hidden layer.
        let mut known = Vec::new();
        if kind.pooling().is_some() {
            known.extend([HeadLayers::usual(family), HeadLayers::pre_classifier()]);
        }
        known.extend(plain);
        let names: BTreeSet<&str> = known.iter().filter_map(|head| head.output).collect();
        let expected = format!("the weight of {}{advice}", names.into_iter().collect::<Vec<_>>().join(" or "));
        let found = known.into_iter().find(|head| head.modules().all(has));
        found.ok_or_else(|| content(source.path(), "head", &expected, "none"))
    }

    /// The layers' names for the head of a patch.
    ///
    /// # Errors
    /// When no model of the family has a hidden layer with this activation.
    pub fn of(patch: &Patch, family: Family) -> Result<Self> {
        let due = dense_activation(family);
        if patch.task().kind().outputs().is_none() {
            return match patch.head().linears().count() {
                0 => Ok(HeadLayers::NONE),
                layers => {
                    let expected = "an embedding without dense layers, for which there are no names".to_owned();
                    let field = format!("head of task {}", patch.task().name());
                    Err(bias_patch::Error::Field { field, expected, found: format!("{layers} of them") }.into())
                }
            };
        }
        match &patch.head().dense {
            // The usual name is the first.
            None => Ok(HeadLayers::plain(
                tasks::of(patch.task().kind()).checkpoint_modules().first().copied().unwrap_or("classifier"),
            )),
            Some((_, found)) if *found == due => Ok(HeadLayers::usual(family)),
            Some((_, Activation::Relu)) => Ok(HeadLayers::pre_classifier()),
            Some((_, other)) => {
                let expected = format!("no hidden layer, or one with {} or relu, as names tell them apart", due.name());
                let field = format!("head of task {}", patch.task().name());
                Err(bias_patch::Error::Field { field, expected, found: other.name().to_owned() }.into())
            }
        }
    }

    /// Reads the layers.
    pub fn read(&self, source: &Checkpoint) -> Result<Head> {
        let linear = |module: &str| -> Result<Linear> {
            let (weight, bias) = (format!("{module}.weight"), format!("{module}.bias"));
            let shape = source.shape(&weight)?.to_vec();
            let [outputs, inputs] = shape[..] else {
                return Err(content(source.path(), &weight, "two dimensions", format!("{shape:?}")));
            };
            let values = source.read(&weight, &[outputs, inputs])?;
            let bias = source.read(&bias, &[outputs])?;
            Linear::exact(&values, &bias).map_err(|e| content(source.path(), &weight, "a linear layer", e))
        };
        let dense = match self.dense {
            Some((module, activation)) => Some((linear(module)?, activation)),
            None => None,
        };
        Ok(Head { dense, output: self.output.map(linear).transpose()? })
    }

    /// The tensors of a patch's head, whose layers these names are.
    pub fn write(&self, head: &Head) -> Vec<NamedTensor> {
        let linears = head.linears().map(|(_, linear)| linear);
        let tensors = self.modules().zip(linears).flat_map(|(module, linear)| {
            let (rows, columns) = (linear.outputs as usize, linear.inputs as usize);
            [
                (format!("{module}.weight"), vec![rows, columns], linear.weight.values(None)),
                (format!("{module}.bias"), vec![rows], linear.bias.values(None)),
            ]
        });
        tensors.collect()
    }
}

/// The activation after the hidden layer of a family's sequence classifiers.
fn dense_activation(family: Family) -> Activation {
    match family {
        Family::Electra | Family::DebertaV2 => Activation::Gelu,
        _ => Activation::Tanh,
    }
}
