//! The encoders in memory: each is loaded for the first task that names it, and dropped with its last task.
//!
//! In: the digest that a patch names. Out: the worker that runs it. Refused: an encoder that is neither in a bundle of
//! --bundle nor in the store, and a damaged bundle.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Weak},
};

use bias_patch::Digest;
use edge_bundle::{Bundle, Store};
use edge_run::{Encoder, EngineOptions, replaceable_by_others};

use crate::{
    batcher::{Batching, Worker},
    metrics::Metrics,
};

/// Where encoders are found, and those in memory.
pub(crate) struct Encoders {
    /// The bundles of --bundle.
    bundles: Vec<Bundle>,
    /// Where all other bundles are looked up.
    store: Option<Store>,
    /// How encoders run.
    engine: EngineOptions,
    /// How texts are batched.
    batching: Batching,
    /// The workers, each as long as a task holds it.
    running: BTreeMap<Digest, Weak<Worker>>,
}

impl Encoders {
    pub fn new(bundles: Vec<Bundle>, store: Option<Store>, engine: EngineOptions, batching: Batching) -> Self {
        Encoders { bundles, store, engine, batching, running: BTreeMap::new() }
    }

    /// The worker of an encoder, which is loaded the first time.
    pub fn worker(&mut self, encoder: Digest, metrics: &Arc<Metrics>) -> Result<Arc<Worker>, edge_run::Error> {
        if let Some(worker) = self.running.get(&encoder).and_then(Weak::upgrade) {
            return Ok(worker);
        }
        let named = self.bundles.iter().find(|bundle| bundle.manifest().encoder == encoder);
        let bundle = match (named, &self.store) {
            (Some(bundle), _) => bundle.clone(),
            (None, Some(store)) => store.open(encoder)?,
            (None, None) => Store::of_user()?.open(encoder)?,
        };
        let dir = bundle.dir().to_owned();
        if let Some(exposed) = replaceable_by_others(&dir) {
            tracing::warn!("{exposed}");
        }
        let loaded = Encoder::load(bundle, self.engine)?;
        tracing::info!(encoder = encoder.short(), dir = %dir.display(), arithmetic = loaded.arithmetic(), "encoder mapped");
        if let Some(reason) = loaded.uncovered() {
            let short = encoder.short();
            tracing::warn!(encoder = short, reason, "tract runs this encoder, slower and over a copy of the weights");
        }
        let started = Worker::start(loaded, self.batching, metrics.clone());
        let worker = Arc::new(started.map_err(|source| edge_run::Error::Io {
            path: dir,
            action: "start a thread for the encoder in",
            source,
        })?);
        self.running.insert(encoder, Arc::downgrade(&worker));
        Ok(worker)
    }

    /// The root of the store, where a missing encoder may appear later.
    pub fn store(&self) -> Option<&Path> {
        self.store.as_ref().map(Store::root)
    }

    /// Whether an encoder's bundle is in the store.
    pub fn is_stored(&self, encoder: Digest) -> bool {
        self.store.as_ref().is_some_and(|store| store.path(encoder).exists())
    }

    /// Removes encoders that no task holds, and counts the others.
    pub fn count(&mut self) -> usize {
        self.running.retain(|_, worker| worker.strong_count() > 0);
        self.running.len()
    }
}
