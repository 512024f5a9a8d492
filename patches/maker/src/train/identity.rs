//! The identity of a training: a digest of everything that decides its result.
//!
//! In: an encoder's digest and arithmetic, the task, the texts, the recipe, and which weights are trained, if any. Out:
//! a [`Digest`], and one for each of these, which tells what differs between two trainings. Resuming and kept results
//! depend on it, so its input is an explicit form: fields in a fixed order, each a name and a value, both with their
//! length before them. A setting that is not given has no field. The first field is [`VERSION`].

use std::{collections::BTreeMap, mem};

use bias_patch::{Digest, Digester, Task};
use edge_run::tasks;

use super::{Average, ClassWeights, Recipe, Sets, Weights};
use crate::{
    Error, Result,
    data::{Example, Gold},
};

/// Raised whenever the form below changes for trainings that could be expressed before.
const VERSION: u64 = 3;

/// The part of an identity that is of the processor.
pub(crate) const KERNELS: &str = "processor's kernels";

/// The identity of a training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The digest of everything.
    pub digest: Digest,
    /// The shortened digest of each part, by what the part is.
    pub parts: BTreeMap<String, String>,
}

/// The identity of a training on an encoder of this digest, whose kernels round as `arithmetic` says.
///
/// # Errors
/// When the task cannot be written as JSON.
pub(super) fn identity(
    (encoder, arithmetic): (Digest, &str),
    task: &Task,
    sets: Sets<'_>,
    recipe: &Recipe,
    weights: Option<Weights>,
) -> Result<Identity> {
    let mut fields = Fields::default();
    fields.number("edge-patch training", VERSION);
    fields.end("form of identities");
    fields.bytes("encoder", &encoder.0);
    fields.end("encoder");
    fields.text("arithmetic", arithmetic);
    fields.end(KERNELS);
    // The form of task.json, which names every field.
    let json = serde_json::to_vec(task).map_err(|e| Error::Recipe {
        field: "task".to_owned(),
        expected: "one that JSON can express".to_owned(),
        found: e.to_string(),
    })?;
    fields.bytes("task", &json);
    fields.end("task");
    recipe_fields(recipe, &mut fields);
    if tasks::of(task.kind()).fitted(&[]).is_some() {
        fields.text("thresholds", "fitted to the dev set");
    }
    if let Some(weights) = weights {
        fields.text("weights", weights.name());
    }
    fields.end("recipe");
    let (train, dev) = (("train", "training texts", Some(sets.train)), ("dev", "dev set", Some(sets.dev)));
    for (set, name, examples) in [train, dev, ("test", "test set", sets.test)] {
        if let Some(examples) = examples {
            fields.number(set, examples.len() as u64);
            examples.iter().for_each(|example| example_fields(example, &mut fields));
        }
        fields.end(name);
    }
    Ok(Identity { digest: fields.whole.finish(), parts: fields.parts })
}

fn recipe_fields(recipe: &Recipe, fields: &mut Fields) {
    // Every field by name: a new one has to be thought of here.
    let Recipe {
        slots,
        learning_rates,
        residual_rate,
        seeds,
        rate_by_first_seed,
        epochs,
        batch,
        warmup,
        clip,
        weight_decay,
        class_weights,
        metric,
        average,
        memory_limit,
        // It changes no bit.
        keep_states: _,
        patience,
    } = recipe;
    slots.biases.iter().for_each(|module| fields.text("term", module.symbol()));
    for (module, rank) in &slots.low_rank {
        fields.text("low_rank", module.short());
        fields.number("rank", *rank as u64);
    }
    if slots.first_layer > 0 {
        fields.number("first_layer", slots.first_layer.into());
    }
    learning_rates.iter().for_each(|rate| fields.float("learning_rate", *rate));
    fields.float("residual_rate", *residual_rate);
    seeds.iter().for_each(|seed| fields.number("seed", *seed));
    if *rate_by_first_seed {
        fields.number("rate_by_first_seed", 1);
    }
    fields.number("epochs", *epochs);
    fields.number("batch", *batch as u64);
    fields.float("warmup", *warmup);
    fields.float("clip", *clip);
    fields.float("weight_decay", *weight_decay);
    match class_weights {
        ClassWeights::None => {}
        ClassWeights::Balanced => fields.text("class_weights", "balanced"),
    }
    if let Some(metric) = metric {
        fields.text("metric", metric);
    }
    match average {
        Average::None => {}
        Average::Ema(decay) => fields.float("average_ema", *decay),
        Average::Last(epochs) => fields.number("average_last", *epochs),
    }
    if let Some(bytes) = memory_limit {
        fields.number("memory_limit", *bytes);
    }
    if let Some(epochs) = patience {
        fields.number("patience", *epochs);
    }
}

fn example_fields(example: &Example, fields: &mut Fields) {
    fields.text("first", example.text.first());
    if let Some(second) = example.text.second() {
        fields.text("second", second);
    }
    let words = example.text.words();
    if words.len() != example.text.first().split_whitespace().count() {
        // White space does not tell them apart, so the text does not either.
        for (start, end) in words.iter() {
            fields.number("word_start", *start as u64);
            fields.number("word_end", *end as u64);
        }
    }
    match &example.gold {
        Gold::Class(label) => fields.number("class", *label as u64),
        Gold::Value(value) => fields.bytes("value", &value.to_le_bytes()),
        Gold::Classes(labels) => {
            fields.number("classes", labels.len() as u64);
            labels.iter().for_each(|label| fields.number("class", *label as u64));
        }
        Gold::Tags(labels) => {
            fields.number("tags", labels.len() as u64);
            labels.iter().for_each(|label| fields.number("tag", *label as u64));
        }
        Gold::Pair(negatives) => {
            fields.number("negatives", negatives.len() as u64);
            negatives.iter().for_each(|text| fields.text("negative", text));
        }
        Gold::Span(answers) => {
            fields.number("answers", answers.len() as u64);
            for (start, end) in answers {
                fields.number("start", *start as u64);
                fields.number("end", *end as u64);
            }
        }
    }
}

/// Names and values, digested one after the other.
#[derive(Default)]
struct Fields {
    whole: Digester,
    /// Of the fields since the last part ended.
    part: Digester,
    parts: BTreeMap<String, String>,
}

impl Fields {
    fn bytes(&mut self, name: &str, value: &[u8]) {
        for part in [name.as_bytes(), value] {
            for digester in [&mut self.whole, &mut self.part] {
                digester.update(&(part.len() as u64).to_le_bytes());
                digester.update(part);
            }
        }
    }

    /// Ends a part. Its name is kept in results: with another name nothing tells there what differs.
    fn end(&mut self, name: &str) {
        self.parts.insert(name.to_owned(), mem::take(&mut self.part).finish().short());
    }

    fn text(&mut self, name: &str, value: &str) {
        self.bytes(name, value.as_bytes());
    }

    fn number(&mut self, name: &str, value: u64) {
        self.bytes(name, &value.to_le_bytes());
    }

    fn float(&mut self, name: &str, value: f64) {
        self.bytes(name, &value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use edge_run::Text;

    use super::*;

    #[test]
    fn a_known_training_has_a_known_identity() {
        let task: Task =
            serde_json::from_str(r#"{"name":"mood","kind":"classification","labels":["bad","good"]}"#).unwrap();
        let example = |text: &str, label: usize| Example { text: Text::one(text), gold: Gold::Class(label) };
        let words = |words: &[&str]| [Example { text: Text::of_words(words).unwrap(), gold: Gold::Class(0) }];
        let (train, dev) = ([example("good", 1), example("bad", 0)], [example("fine", 1)]);
        let recipe = Recipe {
            slots: "bq".parse().unwrap(),
            learning_rates: vec![1e-3, 3e-3],
            seeds: vec![1, 2],
            epochs: 3,
            average: Average::Ema(0.999),
            ..Recipe::default()
        };
        let of_sets = |sets: Sets<'_>, recipe: &Recipe, weights| {
            identity((Digest::of(b"encoder"), "avx2 Float"), &task, sets, recipe, weights).unwrap()
        };
        let of = |train: &[Example], dev: &[Example], recipe: &Recipe, weights| {
            of_sets(Sets { train, dev, test: None }, recipe, weights)
        };
        let known = of(&train, &dev, &recipe, None);
        // Another value would end every kept result and checkpoint: then VERSION has to be raised, and this with it.
        assert_eq!(known.digest.to_string(), "d194d857412558d0df486fd560ffc4b03fbc7cde2f43a2a757af8cb1a1a981c3");
        let others = [
            of(&train[..1], &dev, &recipe, None),
            of(&dev, &train, &recipe, None),
            // Moved from one set to the other.
            of(&train[..1], &[train[1].clone(), dev[0].clone()], &recipe, None),
            of(&train, &dev, &recipe, Some(Weights::Full)),
            of(&train, &dev, &Recipe { seeds: vec![1], ..recipe.clone() }, None),
            of(&train, &dev, &Recipe { residual_rate: 0.5, ..recipe.clone() }, None),
            of(&train, &dev, &Recipe { slots: "bq,lora:q@1".parse().unwrap(), ..recipe.clone() }, None),
            of(&train, &dev, &Recipe { slots: "bq,lora:q@2".parse().unwrap(), ..recipe.clone() }, None),
            of(&train, &dev, &Recipe { slots: recipe.slots.clone().from_layer(1), ..recipe.clone() }, None),
            of(&train, &dev, &Recipe { class_weights: ClassWeights::Balanced, ..recipe.clone() }, None),
            of(&train, &dev, &Recipe { patience: Some(1), ..recipe.clone() }, None),
            of(&train, &dev, &Recipe { average: Average::Last(1), ..recipe.clone() }, None),
            of(&train, &dev, &Recipe { rate_by_first_seed: true, ..recipe.clone() }, None),
            of(&words(&["a b", "c"]), &dev, &recipe, None),
            of(&words(&["a", "b c"]), &dev, &recipe, None),
            of(&words(&["a b c"]), &dev, &recipe, None),
            of(&words(&["a", "b", "c"]), &dev, &recipe, None),
            of_sets(Sets { train: &train, dev: &dev, test: Some(&dev) }, &recipe, None),
            of_sets(Sets { train: &train, dev: &dev, test: Some(&train) }, &recipe, None),
        ];
        for (at, other) in others.iter().enumerate() {
            assert!(other.digest != known.digest && !others[..at].contains(other), "{at}");
        }
        // The parts tell which it was: all texts, the recipe, and a test set where there was none.
        for (at, differing) in [(1, &["dev set", "training texts"][..]), (4, &["recipe"]), (17, &["test set"])] {
            let parts = known.parts.iter().filter(|(name, digest)| others[at].parts[*name] != **digest);
            assert_eq!(parts.map(|(name, _)| name).collect::<Vec<_>>(), differing);
        }
    }
}
