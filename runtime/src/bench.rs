//! Times an encoder and counts its memory.
//!
//! In: a bundle, and which lengths to try. Out: a [`Report`]. Refused: lengths that the encoder does not take. Token
//! ids follow a formula, so that another program can run the same ones: id number `at` is `(7919 at + 1) mod
//! vocabulary`. In a run of several sequences of one length, sequence number `n` begins at id number `n`, for equal ones
//! would be computed once. Times are wall-clock times of the encoder alone.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bias_patch::{Patch, Values};
use edge_bundle::{Bundle, Element};
use ndarray::ArrayView2;
use serde::Serialize;

use crate::{
    Encoder, EngineOptions, Error, MappedMemory, Memory, Result, Tokenized,
    engine::{Engine, Sequence, TaskValues},
    kernel::{peak_gflops, read_gbytes, select},
};

/// Most sequences in a run.
const MOST_SEQUENCES: usize = 4096;

/// What to measure.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// How the encoder runs.
    pub engine: EngineOptions,
    /// Sequence lengths, in tokens.
    pub lengths: Vec<u32>,
    /// Sequences in a run.
    pub batch: usize,
    /// Whether to measure forward and backward too.
    pub gradients: bool,
    /// The task whose values the encoder runs with; none for the encoder's own.
    pub patch: Option<Patch>,
    /// How long each figure is measured.
    pub time: Duration,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The checkpoint's name.
    pub name: String,
    /// What the frozen matrices are stored as.
    pub weights: &'static str,
    /// The kernel, by its name in `EDGE_RUN_ISA`, and the type of activations; or tract.
    pub arithmetic: String,
    /// Why tract ran the encoder although nobody asked for tract: see [`Encoder::uncovered`].
    #[serde(skip)]
    pub uncovered: Option<String>,
    /// Threads it ran on.
    pub threads: usize,
    /// Reading the tokenizer.
    pub load_tokenizer_ms: f64,
    /// Mapping the weights and lowering the graph.
    pub load_encoder_ms: f64,
    /// Billions of multiplications and additions a second that the kernel reaches on one thread, in f32, on matrices
    /// that are in the first cache.
    pub peak_gflops: f64,
    /// Billions of bytes a second that one thread reads of the mapped weights; none with tract, which has none mapped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_gbytes: Option<f64>,
    /// One for each length.
    pub lengths: Vec<Length>,
    /// Median time of a switch between two tasks in memory: binding the inputs of a run of 32 tokens.
    /// Where 32 are named, an encoder that takes fewer has as many as it takes.
    pub switch_us: f64,
    /// Eight sequences of 32 tokens, of one task and of eight.
    pub mixed: Mixed,
    /// One sequence of 32 tokens, for one task and for eight that differ in the upper third of the layers; none with
    /// tract, which shares nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<Mixed>,
    /// Sequences of [`batch_lengths`], cut to what the encoder takes, shortest first.
    pub batch: Batch,
    /// Values of one task in memory.
    pub task_bytes: usize,
    /// Memory of this process at the end; none on systems that do not tell.
    pub memory: Option<Memory>,
    /// Memory of the mapped weights.
    pub mapped: Option<MappedMemory>,
}

/// Runs of one length.
#[derive(Clone, Debug, Serialize)]
pub struct Length {
    /// Tokens of a sequence.
    pub tokens: u32,
    /// Sequences in a run.
    pub batch: usize,
    /// The fastest run.
    pub min_ms: f64,
    /// The median run.
    pub median_ms: f64,
    /// The 95th percentile.
    pub p95_ms: f64,
    /// Billions of multiplications and additions a second in the linear layers, of the median run.
    pub gflops: f64,
    /// The time that the linear layers take at least, by the roofline: at the peak, or while their weights are read once,
    /// whichever is longer. On one thread, for f32 weights that are mapped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub least_ms: Option<f64>,
    /// Median time of forward and backward, with the gradients of all biases; none unless asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradient_ms: Option<f64>,
    /// The first values of the last hidden state of the first token: the same in every engine.
    pub hidden: Vec<f32>,
}

/// Batches of one task and of several.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Mixed {
    /// Median time with one task.
    pub one_task_ms: f64,
    /// Median time with eight tasks.
    pub eight_tasks_ms: f64,
    /// The median ratio of two consecutive runs.
    pub ratio: f64,
}

/// A batch of many lengths.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Batch {
    /// How many sequences.
    pub sequences: usize,
    /// Tokens of the shortest.
    pub shortest: usize,
    /// Tokens of the longest.
    pub longest: usize,
    /// Median time of the batch.
    pub median_ms: f64,
    /// Sequences a second.
    pub sequences_per_second: f64,
    /// Tokens a second.
    pub tokens_per_second: f64,
}

/// The lengths of [`Report::batch`].
pub fn batch_lengths() -> impl Iterator<Item = usize> {
    (1..=32).map(|at| 4 * at)
}

/// Measures an encoder.
///
/// # Errors
/// When it cannot be loaded or run.
pub fn bench(bundle: Bundle, options: &BenchOptions) -> Result<Report> {
    let wrong = |option: &str, expected: String, found: String| {
        Err(Error::Usage { option: option.to_owned(), expected, found })
    };
    let limit = bundle.manifest().config.max_length;
    if let Some(length) = options.lengths.iter().find(|length| !(1..=limit).contains(*length)) {
        return wrong("--lengths", format!("1 to {limit} tokens, as the encoder takes"), length.to_string());
    }
    if !(1..=MOST_SEQUENCES).contains(&options.batch) {
        return wrong("--batch", format!("1 to {MOST_SEQUENCES}"), options.batch.to_string());
    }
    let encoder = Encoder::load(bundle, options.engine)?;
    let manifest = encoder.bundle().manifest();
    let config = &manifest.config;
    let longest = usize::try_from(config.max_length).unwrap_or(usize::MAX);
    let tokens_of = |length: usize, number: usize| -> Vec<u32> {
        let numbers = (number as u64..).take(length);
        numbers.map(|at| ((7919 * at + 1) % u64::from(config.vocabulary)) as u32).collect()
    };
    let tokens = |length: usize| tokens_of(length, 0);
    let engine = &encoder.engine;
    let values = match &options.patch {
        Some(patch) => {
            // Refuses what this engine does not run.
            encoder.attach(patch)?;
            patch.apply(&manifest.shape(), encoder.base().slots())?
        }
        None => Values::of_slots(encoder.base().slots()),
    };
    let tasks: Vec<TaskValues> = (0..8).map(|task| TaskValues::of(&nudged(&values, task, |_| true))).collect();
    let base = TaskValues::of(&values);

    // Multiplications of the linear layers for a token; of a graph of another program they are not known.
    let layers = manifest.slots.iter().filter(|slot| slot.module.in_layers() && slot.module.is_linear());
    let products: f64 = layers.map(|slot| f64::from(config.inputs(slot.module)) * f64::from(slot.len)).sum();
    let peak_gflops = peak_gflops(select()?, options.time);
    // The tables of words lie behind the matrices of the layers, and only some of their rows are read.
    let read_gbytes = engine.lowered().map(|lowered| {
        let weights = lowered.weights().bytes();
        read_gbytes(&weights[..weights.len().min(products as usize * size_of::<f32>())], options.time)
    });
    let has_roofline = options.engine.threads == 1 && manifest.weights() == Element::F32 && products > 0.0;
    let mut lengths = Vec::new();
    for length in &options.lengths {
        let ids = tokens(*length as usize);
        let zeros = vec![0; ids.len()];
        let all: Vec<_> = (0..options.batch).map(|number| tokens_of(*length as usize, number)).collect();
        let batch: Vec<_> = all.iter().map(|ids| Sequence { ids, type_ids: &zeros, values: &base }).collect();
        let hidden = engine.run(&engine.bind(&batch))?;
        let times = repeat(options.time, || run(engine, &batch))?;
        let median = quantile(&times, 0.5);
        let gradient_ms = match options.gradients {
            true => {
                let text = Tokenized::of_ids(ids.clone());
                let texts = vec![&text; options.batch];
                let wanted = vec![true; values.slots.len() + values.low_rank.len()];
                let times = repeat(options.time, || {
                    // The hidden states serve as their own gradient: any values do.
                    let run = crate::RUN_TOKENS;
                    let gradient =
                        encoder.gradient(&values, &texts, &wanted, run, &mut |_, tokens: ArrayView2<'_, f32>, _| {
                            (tokens.to_owned(), None)
                        })?;
                    black_box(gradient);
                    Ok(())
                })?;
                Some(quantile(&times, 0.5))
            }
            false => None,
        };
        lengths.push(Length {
            tokens: *length,
            batch: options.batch,
            min_ms: quantile(&times, 0.0),
            median_ms: median,
            p95_ms: quantile(&times, 0.95),
            gflops: 2.0 * products * f64::from(*length) * options.batch as f64 / median / 1e6,
            least_ms: read_gbytes.filter(|_| has_roofline).map(|read| {
                let multiplied = 2.0 * products * f64::from(*length) * options.batch as f64 / peak_gflops;
                multiplied.max(4.0 * products / read) / 1e6
            }),
            gradient_ms,
            hidden: hidden[0].tokens.iter().take(8).copied().collect(),
        });
    }

    let zeros = vec![0; 32.min(longest)];
    let texts: Vec<_> = (0..tasks.len()).map(|number| tokens_of(zeros.len(), number)).collect();
    let sequence = |text: usize, values| Sequence { ids: &texts[text], type_ids: &zeros, values };
    let mut at = 0;
    let switch = repeat(options.time, || {
        // Reading the clock takes longer than one switch, so 64 are measured together.
        for _ in 0..64 {
            at = (at + 1) % tasks.len();
            black_box(engine.bind(&[sequence(0, &tasks[at])]));
        }
        Ok(())
    })?;
    let same: Vec<_> = (0..8).map(|text| sequence(text, &tasks[0])).collect();
    let each: Vec<_> = (0..8).map(|text| sequence(text, &tasks[text])).collect();
    let mixed = in_turns(engine, options.time, &same, &each)?;
    let shared = match engine.lowered() {
        Some(_) => {
            let begins = u16::try_from(config.layers - config.layers / 3).unwrap_or(u16::MAX);
            let moves = |slot: usize| manifest.slots[slot].id().layer >= Some(begins);
            let upper: Vec<_> = (0..8).map(|task| TaskValues::of(&nudged(&values, task, moves))).collect();
            let eight: Vec<_> = upper.iter().map(|values| sequence(0, values)).collect();
            Some(in_turns(engine, options.time, &eight[..1], &eight)?)
        }
        None => None,
    };

    let many: Vec<Vec<u32>> =
        batch_lengths().enumerate().map(|(at, length)| tokens_of(length.min(longest), at)).collect();
    let zeros = vec![0; longest];
    let many: Vec<Sequence<'_>> =
        many.iter().map(|ids| Sequence { ids, type_ids: &zeros[..ids.len()], values: &base }).collect();
    let runs = crate::runs::runs(many.iter().map(|sequence| sequence.ids.len()), crate::RUN_TOKENS);
    let times = repeat(options.time, || runs.iter().try_for_each(|run_of| run(engine, &many[run_of.clone()])))?;
    let batch_ms = quantile(&times, 0.5);
    let all: usize = many.iter().map(|sequence| sequence.ids.len()).sum();

    let load = encoder.load_timing();
    Ok(Report {
        name: manifest.name.clone(),
        weights: manifest.weights().option(),
        arithmetic: encoder.arithmetic(),
        uncovered: encoder.uncovered().map(str::to_owned),
        threads: options.engine.threads,
        load_tokenizer_ms: load.tokenizer.as_secs_f64() * 1e3,
        load_encoder_ms: load.engine.as_secs_f64() * 1e3,
        peak_gflops,
        read_gbytes,
        lengths,
        switch_us: quantile(&switch, 0.5) / 64.0 * 1e3,
        mixed,
        shared,
        batch: Batch {
            sequences: many.len(),
            shortest: many.first().map_or(0, |sequence| sequence.ids.len()),
            longest: many.last().map_or(0, |sequence| sequence.ids.len()),
            median_ms: batch_ms,
            sequences_per_second: many.len() as f64 / batch_ms * 1e3,
            tokens_per_second: all as f64 / batch_ms * 1e3,
        },
        task_bytes: size_of_val(base.all()),
        memory: Memory::now(),
        mapped: MappedMemory::of("panels-"),
    })
}

fn run(engine: &Engine, sequences: &[Sequence<'_>]) -> Result<()> {
    black_box(engine.run(&engine.bind(sequences))?);
    Ok(())
}

/// Times one task's sequences and those of eight tasks in turns.
fn in_turns(engine: &Engine, time: Duration, one: &[Sequence<'_>], eight: &[Sequence<'_>]) -> Result<Mixed> {
    let mut pairs = Vec::new();
    repeat(time, || {
        let begun = Instant::now();
        run(engine, one)?;
        let first = begun.elapsed().as_secs_f64() * 1e3;
        let begun = Instant::now();
        run(engine, eight)?;
        pairs.push((first, begun.elapsed().as_secs_f64() * 1e3));
        Ok(())
    })?;
    let of_pairs = |f: fn(&(f64, f64)) -> f64| quantile(&pairs.iter().map(f).collect::<Vec<_>>(), 0.5);
    Ok(Mixed {
        one_task_ms: of_pairs(|pair| pair.0),
        eight_tasks_ms: of_pairs(|pair| pair.1),
        ratio: of_pairs(|pair| pair.1 / pair.0),
    })
}

/// Values that differ from task to task in those slots that `moves` says.
fn nudged(values: &Values, task: usize, moves: impl Fn(usize) -> bool) -> Values {
    let by = |slot: usize| if moves(slot) { 1e-3 * task as f32 } else { 0.0 };
    let slot = |(at, slot): (usize, &Vec<f32>)| slot.iter().map(|value| value + by(at)).collect();
    Values { slots: values.slots.iter().enumerate().map(slot).collect(), low_rank: values.low_rank.clone() }
}

/// Times of `work` in milliseconds, one for each run. Runs go on for `time`; there are at least five, after one that is
/// not counted.
fn repeat(time: Duration, mut work: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    work()?;
    let begun = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || begun.elapsed() < time {
        let begun = Instant::now();
        work()?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

fn quantile(times: &[f64], fraction: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(fraction * (sorted.len() - 1) as f64).round() as usize]
}
