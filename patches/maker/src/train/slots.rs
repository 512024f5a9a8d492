//! Which slots a training changes, as `--slots` says it.
//!
//! In: text such as `all`, `bq+bm2` or `all,lora:q+v@1`. Out: [`Slots`]. Refused: names that no module has, the key's
//! bias where it has no effect, low-rank terms of LayerNorms, ranks of 0 and above 4096, and a module twice.

use std::{fmt, str::FromStr};

use bias_patch::{Module, SlotId};
use edge_bundle::{Manifest, Slot};

use super::wrong;
use crate::{Error, Result};

/// Biases and low-rank terms, in every layer from the first that is trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Modules whose bias is trained, where it has an effect.
    pub biases: Vec<Module>,
    /// Modules that get a low-rank term, with its rank.
    pub low_rank: Vec<(Module, usize)>,
    /// The layers before this one keep the encoder's values, and so do the embeddings, unless it is 0.
    pub first_layer: u16,
    /// Modules that were named one by one: they have to be there.
    named: Vec<SlotName>,
}

/// A part of [`Slots`] that somebody asked for by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SlotName {
    module: Module,
    low_rank: bool,
}

/// The linear layers of an encoder's layer.
const OF_A_LAYER: [Module; 7] =
    [Module::Query, Module::Key, Module::Value, Module::AttentionOutput, Module::Middle, Module::Gate, Module::Output];

impl Slots {
    /// No slot: the head alone is trained.
    pub fn frozen() -> Self {
        Slots { biases: Vec::new(), low_rank: Vec::new(), first_layer: 0, named: Vec::new() }
    }

    /// Every bias that has an effect.
    pub fn all_biases() -> Self {
        Slots { biases: Module::ALL.to_vec(), ..Slots::frozen() }
    }

    /// The same from a layer on.
    #[must_use]
    pub fn from_layer(self, first_layer: u16) -> Self {
        Slots { first_layer, ..self }
    }

    /// Whether the bias of a slot is trained. `pooler` says whether the task reads the pooler's output.
    pub(super) fn has_bias(&self, slot: &Slot, manifest: &Manifest, pooler: bool) -> bool {
        manifest.config.bias_counts(slot.module)
            && self.biases.contains(&slot.module)
            && self.reaches(slot.id(), pooler)
    }

    /// The rank of the low-rank term that the module of a slot gets.
    pub(super) fn rank(&self, slot: &Slot, manifest: &Manifest, pooler: bool) -> Option<usize> {
        let found = self.low_rank.iter().find(|(module, _)| *module == slot.module);
        let takes = manifest.config.takes_low_rank(slot.module) && self.reaches(slot.id(), pooler);
        found.filter(|_| takes).map(|(_, rank)| *rank)
    }

    fn reaches(&self, id: SlotId, pooler: bool) -> bool {
        match id.layer {
            Some(layer) => layer >= self.first_layer,
            None if id.module == Module::Pooler => pooler,
            None => self.first_layer == 0,
        }
    }

    /// Checks that an encoder has what was named, for a task that reads the pooler's output or does not.
    ///
    /// # Errors
    /// Naming what it does not have.
    pub fn check(&self, manifest: &Manifest, pooler: bool) -> Result<()> {
        if u32::from(self.first_layer) >= manifest.config.layers {
            let expected = format!("a layer below {0}, for the encoder has {0}", manifest.config.layers);
            return Err(wrong("--layers", &expected, &self.first_layer.to_string()));
        }
        for SlotName { module, low_rank } in &self.named {
            let takes = !low_rank || manifest.config.takes_low_rank(*module);
            if takes && manifest.slots.iter().any(|slot| slot.module == *module && self.reaches(slot.id(), pooler)) {
                continue;
            }
            let found = if *low_rank { format!("lora:{}", module.short()) } else { module.symbol().to_owned() };
            return Err(wrong("--slots", "modules that this encoder, task and --layers have", &found));
        }
        let key = SlotName { module: Module::Key, low_rank: false };
        if self.named.contains(&key) && !manifest.config.key_bias_counts() {
            return Err(wrong("--slots", "a bias that has an effect in this encoder", "bk, which has none"));
        }
        for slot in &manifest.slots {
            let Some(rank) = self.rank(slot, manifest, pooler) else { continue };
            let most = manifest.config.inputs(slot.module).min(slot.len);
            if rank as u64 > u64::from(most) {
                let expected = format!("a rank of at most {most} for {}", slot.module.short());
                return Err(wrong("--slots", &expected, &rank.to_string()));
            }
        }
        Ok(())
    }
}

impl Default for Slots {
    /// Every bias that has an effect, and a low-rank term of rank 1 of every linear layer in the layers.
    fn default() -> Self {
        let low_rank = OF_A_LAYER.into_iter().map(|module| (module, 1)).collect();
        Slots { low_rank, ..Slots::all_biases() }
    }
}

impl FromStr for Slots {
    type Err = Error;

    /// Words are separated by `,` or `+`. `lora:` begins a list of modules that get a low-rank term: each word after it
    /// that is the short name of a linear layer belongs to the list. The rank of a list follows `@` on its last word,
    /// and is 1 without it.
    fn from_str(text: &str) -> Result<Self> {
        let mut slots = Slots::frozen();
        // How many of `low_rank` are from before the list that is being read; none outside of a list.
        let mut list: Option<usize> = None;
        for word in text.split([',', '+']).map(str::trim) {
            let (of_list, begins) = match word.strip_prefix("lora:") {
                Some(rest) => (rest, true),
                None => (word, false),
            };
            let (name, rank) =
                of_list.split_once('@').map_or((of_list, None), |(name, rank)| (name, Some(rank.trim())));
            let name = name.trim();
            // `all` continues no list: it is all biases.
            let modules = if begins || name != "all" { linear_layers(name) } else { Vec::new() };
            if begins {
                list = Some(slots.low_rank.len());
            }
            if let (Some(first), false) = (list, modules.is_empty()) {
                if modules.len() == 1 {
                    slots.named.push(SlotName { module: modules[0], low_rank: true });
                }
                slots.low_rank.extend(modules.into_iter().map(|module| (module, 1)));
                if let Some(rank) = rank {
                    let number = rank.parse().ok().filter(|rank| (1..=MOST_RANK).contains(rank));
                    let number =
                        number.ok_or_else(|| wrong("rank of a low-rank term", &format!("1 to {MOST_RANK}"), rank))?;
                    slots.low_rank[first..].iter_mut().for_each(|(_, rank)| *rank = number);
                    list = None;
                }
                continue;
            }
            if begins {
                let known: Vec<&str> = linear_names().collect();
                return Err(wrong("--slots", &format!("lora: with all, or some of {}", known.join(" ")), word));
            }
            list = None;
            match word {
                "all" => slots.biases.extend(Module::ALL),
                // Only the head is trained: the encoder is frozen.
                "none" | "frozen" => {}
                symbol => {
                    let module = symbol.parse().ok();
                    // A graph from elsewhere is not trained.
                    let known = Module::ALL.into_iter().filter(|module| *module != Module::Graph).map(Module::symbol);
                    let known: Vec<&str> = known.collect();
                    let expected = || format!("all, frozen, lora:MODULE, or a bias of {}", known.join(" "));
                    let module: Module = module.ok_or_else(|| wrong("--slots", &expected(), symbol))?;
                    slots.named.push(SlotName { module, low_rank: false });
                    slots.biases.push(module);
                }
            }
        }
        let alone = |word: &str| matches!(word.trim(), "none" | "frozen");
        if slots != Slots::frozen() && text.split([',', '+']).any(alone) {
            return Err(wrong("--slots", "frozen, the head alone, or slots", text));
        }
        slots.biases.sort();
        slots.biases.dedup();
        slots.low_rank.sort();
        if let Some(twice) = slots.low_rank.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(wrong("--slots", "each module once after lora:", twice[0].0.short()));
        }
        Ok(slots)
    }
}

/// The largest rank that the command takes.
const MOST_RANK: usize = 4096;

/// The modules of a word of a list of low-rank terms; none if it is no such word.
fn linear_layers(name: &str) -> Vec<Module> {
    match name {
        "all" => OF_A_LAYER.to_vec(),
        name => Module::ALL.into_iter().filter(|module| module.is_linear() && module.short() == name).collect(),
    }
}

fn linear_names() -> impl Iterator<Item = &'static str> {
    Module::ALL.into_iter().filter(|module| module.is_linear()).map(Module::short)
}

impl fmt::Display for Slots {
    /// As `--slots` reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = Vec::new();
        if self.biases == Module::ALL {
            words.push("all".to_owned());
        } else {
            words.extend(self.biases.iter().map(|module| module.symbol().to_owned()));
        }
        for of_rank in self.low_rank.chunk_by(|a, b| a.1 == b.1) {
            let modules: Vec<Module> = of_rank.iter().map(|(module, _)| *module).collect();
            let names = match modules == OF_A_LAYER {
                true => "all".to_owned(),
                false => modules.iter().map(|module| module.short()).collect::<Vec<_>>().join("+"),
            };
            words.push(format!("lora:{names}@{}", of_rank[0].1));
        }
        if words.is_empty() {
            words.push("frozen".to_owned());
        }
        f.pad(&words.join("+"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_what_its_text_says() {
        let shown: Slots = Slots::default().to_string().parse().unwrap();
        assert_eq!((shown.biases, shown.low_rank), (Slots::default().biases, Slots::default().low_rank));
    }

    #[test]
    fn what_is_trained_reads_back() {
        for (text, shown) in [
            ("all", "all"),
            ("frozen", "frozen"),
            ("bm2,bq", "bq+bm2"),
            ("all,lora:q+v@1", "all+lora:q+v@1"),
            ("lora:q+v@2+bq", "bq+lora:q+v@2"),
            ("lora:all", "lora:all@1"),
            ("bq+lora:v+lora:m2@4", "bq+lora:v@1+lora:m2@4"),
            ("bq, lora:q , k@3", "bq+lora:q+k@3"),
            ("lora: q + v @ 3", "lora:q+v@3"),
            ("lora:q+bq", "bq+lora:q@1"),
            ("lora:q,all", "all+lora:q@1"),
        ] {
            let slots: Slots = text.parse().unwrap();
            assert_eq!(slots.to_string(), shown, "{text}");
            let again: Slots = shown.parse().unwrap();
            assert_eq!((again.biases, again.low_rank), (slots.biases, slots.low_rank), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_trained_is_refused() {
        for (text, said) in [
            ("bx", "--slots: expected all, frozen, lora:MODULE, or a bias of beln"),
            ("frozen+bq", "--slots: expected frozen, the head alone, or slots, found frozen+bq"),
            ("lora:", "--slots: expected lora: with all, or some of eproj q k v m1 m2 gate m3 pool, found lora:"),
            ("lora:ln1", "expected lora: with all, or some of"),
            ("lora:q@0", "rank of a low-rank term: expected 1 to 4096, found 0"),
            ("lora:q@x", "rank of a low-rank term"),
            ("lora:q+lora:q@2", "--slots: expected each module once after lora:, found q"),
            ("lora:all+q", "each module once"),
            ("q", "or a bias of"),
            ("", "or a bias of"),
        ] {
            let error = text.parse::<Slots>().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
