//! Threads that a model runs on: a pool with std, else the caller's thread.

use alloc::vec::Vec;

use crate::Result;

/// Threads to split work over.
pub struct Threads {
    #[cfg(feature = "std")]
    pool: Option<rayon::ThreadPool>,
}

impl Threads {
    /// The caller's thread alone.
    pub fn one() -> Self {
        Threads {
            #[cfg(feature = "std")]
            pool: None,
        }
    }

    /// Starts `count` threads; for one, the caller's thread is used.
    ///
    /// # Errors
    /// When the system does not start that many threads; without the feature `std`, when there are more than one.
    pub fn start(count: usize) -> Result<Self> {
        if count <= 1 {
            return Ok(Self::one());
        }
        let failed = |reason| crate::Error::Threads { threads: count, reason };
        #[cfg(feature = "std")]
        {
            use alloc::{format, string::ToString as _};
            let name = |at| format!("edge-run {at}");
            let pool = rayon::ThreadPoolBuilder::new().num_threads(count).thread_name(name).build();
            Ok(Threads { pool: Some(pool.map_err(|error| failed(error.to_string()))?) })
        }
        #[cfg(not(feature = "std"))]
        Err(failed("built without std: one thread".into()))
    }

    /// How many.
    pub fn count(&self) -> usize {
        #[cfg(feature = "std")]
        if let Some(pool) = &self.pool {
            return pool.current_num_threads();
        }
        1
    }

    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        #[cfg(feature = "std")]
        if let Some(pool) = &self.pool {
            return pool.install(work);
        }
        work()
    }

    pub(crate) fn each<T: Send>(&self, parts: Vec<T>, work: impl Fn(T) + Sync + Send) {
        #[cfg(feature = "std")]
        if self.pool.is_some() {
            use rayon::prelude::*;
            return parts.into_par_iter().for_each(work);
        }
        parts.into_iter().for_each(work);
    }
}
