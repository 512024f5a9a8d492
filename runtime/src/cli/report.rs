//! A benchmark's report, and the times of a session, as tables for people.

use std::{
    io::{self, Write},
    time::Duration,
};

use super::Outcome;
use crate::{LoadTiming, Memory, Task, bench::Report};

/// What a session took before its first text.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Opening patches and the bundle.
    pub opened: Duration,
    /// Loading the encoder.
    pub load: LoadTiming,
    /// Attaching all tasks.
    pub attached: Duration,
}

/// Writes the times and the memory of a session.
///
/// # Errors
/// When the output cannot be written.
pub fn write_times(out: &mut impl Write, times: Times, tasks: &[Task], outcome: &Outcome) -> io::Result<()> {
    let milliseconds = |d: Duration| d.as_secs_f64() * 1e3;
    let each = |d: Duration| d.as_secs_f64() * 1e6 / outcome.answers.max(1) as f64;
    let t = &outcome.timing;
    writeln!(out, "open patches and bundle {:10.3} ms", milliseconds(times.opened))?;
    writeln!(out, "load tokenizer          {:10.3} ms", milliseconds(times.load.tokenizer))?;
    writeln!(out, "load encoder, once      {:10.3} ms", milliseconds(times.load.engine))?;
    writeln!(out, "attach {:3} tasks        {:10.3} ms", tasks.len(), milliseconds(times.attached))?;
    writeln!(out, "tokenize                {:10.3} us an answer", each(t.tokenize))?;
    writeln!(out, "switch task             {:10.3} us an answer", each(t.switch))?;
    writeln!(out, "run encoder             {:10.3} us an answer, {} tokens", each(t.encode), t.tokens)?;
    writeln!(out, "run head                {:10.3} us an answer", each(t.answer))?;
    let resident: usize = tasks.iter().map(Task::resident_bytes).sum();
    writeln!(out, "task values             {:10.3} MB", resident as f64 / 1e6)?;
    if let Some(memory) = Memory::now() {
        writeln!(out, "anonymous memory        {:10.3} MB", memory.anonymous_bytes as f64 / 1e6)?;
        writeln!(out, "file-backed memory      {:10.3} MB", memory.file_bytes as f64 / 1e6)?;
    }
    Ok(())
}

/// Writes what a person has to know of a session's answers: how many texts were cut, and how many have no answer.
/// `place` is where the rows of the latter are.
///
/// # Errors
/// When the output cannot be written.
pub fn write_totals(out: &mut impl Write, outcome: &Outcome, place: &str) -> io::Result<()> {
    if let Some(line) = outcome.first_truncated {
        let cut = outcome.truncated;
        writeln!(out, "edge-run: answers on texts cut to the token limit: {cut}, the first on line {line}")?;
    }
    if outcome.refused > 0 {
        let all = outcome.refused + outcome.answers;
        writeln!(out, "edge-run: answers refused, {place}: {} of {all}", outcome.refused)?;
    }
    Ok(())
}

/// Writes a report.
///
/// # Errors
/// When the output cannot be written.
pub fn write_report(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let Report { name, weights, arithmetic, threads, .. } = report;
    writeln!(out, "encoder   {name}, {weights} weights, {arithmetic}, threads: {threads}")?;
    writeln!(
        out,
        "load      {:.1} ms the tokenizer, {:.1} ms the encoder",
        report.load_tokenizer_ms, report.load_encoder_ms
    )?;
    writeln!(
        out,
        "\n{:>6} {:>5} {:>9} {:>9} {:>9} {:>8} {:>8} {:>9}",
        "tokens", "batch", "min ms", "median", "p95", "GFLOP/s", "of peak", "roofline"
    )?;
    for l in &report.lengths {
        let of_peak = 100.0 * l.gflops / (report.peak_gflops * *threads as f64);
        writeln!(
            out,
            "{:6} {:5} {:9.3} {:9.3} {:9.3} {:8.0} {of_peak:6.0} % {:>9}",
            l.tokens,
            l.batch,
            l.min_ms,
            l.median_ms,
            l.p95_ms,
            l.gflops,
            l.least_ms.map_or("-".to_owned(), |least| format!("{least:.3}"))
        )?;
    }
    for l in &report.lengths {
        if let Some(gradient) = l.gradient_ms {
            writeln!(out, "gradients {gradient:.3} ms for {} texts of {} tokens", l.batch, l.tokens)?;
        }
    }
    writeln!(
        out,
        "peak      {:.0} GFLOP/s in f32, one thread, measured; the linear layers alone are counted",
        report.peak_gflops
    )?;
    if let Some(read) = report.read_gbytes {
        writeln!(
            out,
            "read      {read:.1} GB/s of the weights, one thread, measured; the roofline is the longer of both"
        )?;
    }
    let (mixed, batch) = (report.mixed, report.batch);
    writeln!(
        out,
        "batch     {:.1} ms for {} texts of {} to {} tokens: {:.0} texts, {:.0} tokens a second",
        batch.median_ms,
        batch.sequences,
        batch.shortest,
        batch.longest,
        batch.sequences_per_second,
        batch.tokens_per_second
    )?;
    writeln!(
        out,
        "mixed     {:.2} ms for 8 texts of 32 tokens of 8 tasks, {:.2} ms if all are of one task: {:.3} times, the \
         median of pairs of runs",
        mixed.eight_tasks_ms, mixed.one_task_ms, mixed.ratio
    )?;
    if let Some(shared) = report.shared {
        writeln!(
            out,
            "shared    {:.2} ms for 1 text of 32 tokens, of 8 tasks that differ in the upper third of the layers alone: {:.2} times one \
             task's time, where 8 tasks that share nothing take {:.2}",
            shared.eight_tasks_ms,
            shared.ratio,
            mixed.eight_tasks_ms / shared.one_task_ms
        )?;
    }
    writeln!(
        out,
        "switch    {:.2} us from one decoded task to another; {} bytes each",
        report.switch_us, report.task_bytes
    )?;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    if let (Some(memory), Some(mapped)) = (report.memory, report.mapped) {
        writeln!(
            out,
            "memory    {:.1} MB anonymous; weights: {:.1} MB mapped and resident, {:.1} MB of them this process's share, {} bytes changed",
            megabytes(memory.anonymous_bytes),
            megabytes(mapped.resident_bytes),
            megabytes(mapped.proportional_bytes),
            mapped.private_dirty_bytes
        )?;
    }
    Ok(())
}
