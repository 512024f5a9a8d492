//! How an encoder runs, as C says it.
//!
//! In: a pointer to options, or NULL. Out: what the runtime takes. Refused: another size, no threads, unknown numbers.

use edge_run::{Activations, EngineKind, EngineOptions};

use crate::{argument, status::Failure};

/// Round activations as the weights are: to int8 with int8 and int4 weights, which is faster; to f16 with f16 weights,
/// on processors that compute with it.
pub const EDGE_RUN_ACTIVATIONS_INT8: u32 = 0;
/// Compute with f32 activations. With f32 weights they always are.
pub const EDGE_RUN_ACTIVATIONS_F32: u32 = 1;

/// EDGE_RUN_ENGINE_LOWERED if its operators cover the graph, else EDGE_RUN_ENGINE_TRACT.
pub const EDGE_RUN_ENGINE_AUTO: u32 = 0;
/// Fused operators over mapped weights; several texts at once, on several threads.
pub const EDGE_RUN_ENGINE_LOWERED: u32 = 1;
/// The exported graph in tract: any graph, but slower, one text at a time, over a copy of the weights.
pub const EDGE_RUN_ENGINE_TRACT: u32 = 2;

/// How an encoder runs. Start with EDGE_RUN_OPTIONS_INIT.
#[repr(C)]
pub struct Options {
    /// sizeof(edge_run_options).
    size: u32,
    /// Threads that share the work of a call, 1 to 256. They sleep between calls.
    threads: u32,
    /// EDGE_RUN_ACTIVATIONS_INT8 or EDGE_RUN_ACTIVATIONS_F32.
    activations: u32,
    /// EDGE_RUN_ENGINE_AUTO, EDGE_RUN_ENGINE_LOWERED or EDGE_RUN_ENGINE_TRACT.
    engine: u32,
}

impl Options {
    /// What options say; without any, the default ones.
    ///
    /// # Safety
    /// A pointer that is not NULL points to a size, and to as many bytes as that says.
    pub(crate) unsafe fn read(options: *const Options) -> Result<EngineOptions, Failure> {
        if options.is_null() {
            return Ok(EngineOptions::default());
        }
        // SAFETY: what the caller of this function promises of the size.
        let size = *unsafe { argument::value(options.cast::<u32>(), "options") }?;
        if size as usize != size_of::<Options>() {
            let expected = format!("{}, which EDGE_RUN_OPTIONS_INIT sets", size_of::<Options>());
            return Err(Failure::misuse("options: size", expected, size));
        }
        // SAFETY: there are as many bytes as options have, and each pattern of bits is a number.
        let options = unsafe { argument::value(options, "options") }?;
        Ok(EngineOptions {
            threads: match options.threads {
                0 => return Err(Failure::misuse("options: threads", "at least 1", 0)),
                threads => threads as usize,
            },
            activations: match options.activations {
                EDGE_RUN_ACTIVATIONS_INT8 => Activations::Short,
                EDGE_RUN_ACTIVATIONS_F32 => Activations::F32,
                other => return Err(Failure::misuse("options: activations", "EDGE_RUN_ACTIVATIONS_...", other)),
            },
            engine: match options.engine {
                EDGE_RUN_ENGINE_AUTO => EngineKind::Auto,
                EDGE_RUN_ENGINE_LOWERED => EngineKind::Lowered,
                EDGE_RUN_ENGINE_TRACT => EngineKind::Tract,
                other => return Err(Failure::misuse("options: engine", "EDGE_RUN_ENGINE_...", other)),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_header_are_those_without_options() {
        let header = include_str!("../include/edge_run.h");
        let options = header.lines().find_map(|line| line.strip_prefix("#define EDGE_RUN_OPTIONS_INIT ")).unwrap();
        assert_eq!(options, "{ sizeof(edge_run_options), 1, EDGE_RUN_ACTIVATIONS_INT8, EDGE_RUN_ENGINE_AUTO }");
        let options = Options {
            size: size_of::<Options>() as u32,
            threads: 1,
            activations: EDGE_RUN_ACTIVATIONS_INT8,
            engine: EDGE_RUN_ENGINE_AUTO,
        };
        // SAFETY: they are options, and begin with their size.
        let read = unsafe { Options::read(&raw const options) }.unwrap();
        let EngineOptions { engine, activations, threads } = EngineOptions::default();
        assert_eq!((read.engine, read.activations, read.threads), (engine, activations, threads));
    }
}
