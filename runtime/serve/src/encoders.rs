//! The encoders that run: each is mapped when the first task names it, and ends with the last that holds it.
//!
//! In: the digest that a patch names. Out: its station. Refused: an encoder that is neither among the bundles that were
//! named nor in the store, and a bundle that is not as it should be.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Weak},
};

use bias_patch::{Bundle, Digest, Store};
use edge_run::{Encoder, EngineOptions};

use crate::{
    batcher::{Batching, Station},
    metrics::Metrics,
};

/// Where encoders come from, and those that run.
pub(crate) struct Encoders {
    /// Bundles that were named.
    bundles: Vec<Bundle>,
    /// Where all others are looked for.
    store: Option<Store>,
    /// How they run.
    engine: EngineOptions,
    /// How their texts are put together.
    batching: Batching,
    /// An encoder runs as long as a task holds it.
    running: BTreeMap<Digest, Weak<Station>>,
}

impl Encoders {
    pub fn new(bundles: Vec<Bundle>, store: Option<Store>, engine: EngineOptions, batching: Batching) -> Self {
        Encoders { bundles, store, engine, batching, running: BTreeMap::new() }
    }

    /// The running encoder of a digest; it is mapped the first time.
    pub fn station(&mut self, encoder: Digest, metrics: &Arc<Metrics>) -> Result<Arc<Station>, edge_run::Error> {
        if let Some(station) = self.running.get(&encoder).and_then(Weak::upgrade) {
            return Ok(station);
        }
        let named = self.bundles.iter().find(|bundle| bundle.manifest().encoder == encoder);
        let bundle = match (named, &self.store) {
            (Some(bundle), _) => bundle.clone(),
            (None, Some(store)) => store.open(encoder)?,
            (None, None) => Store::of_user()?.open(encoder)?,
        };
        let dir = bundle.dir().to_owned();
        let loaded = Encoder::load(bundle, self.engine)?;
        tracing::info!(encoder = encoder.short(), dir = %dir.display(), arithmetic = loaded.arithmetic(), "encoder mapped");
        let started = Station::start(loaded, self.batching, metrics.clone());
        let station = Arc::new(started.map_err(|source| edge_run::Error::Io {
            path: dir,
            action: "start a thread for the encoder in",
            source,
        })?);
        self.running.insert(encoder, Arc::downgrade(&station));
        Ok(station)
    }

    /// The root of the store of bundles, where an encoder may turn up.
    pub fn store(&self) -> Option<&Path> {
        self.store.as_ref().map(Store::root)
    }

    /// Whether the store has got an encoder's bundle.
    pub fn is_stored(&self, encoder: Digest) -> bool {
        self.store.as_ref().is_some_and(|store| store.path(encoder).exists())
    }

    /// Forgets encoders that nobody holds any more, and counts the others.
    pub fn count(&mut self) -> usize {
        self.running.retain(|_, station| station.strong_count() > 0);
        self.running.len()
    }
}
