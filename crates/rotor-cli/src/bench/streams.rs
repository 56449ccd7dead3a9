//! Requests that come and go, beside as many sequences that generate in step.

use super::model::Args;
use super::rates::Rates;
use crate::outcome::UsageError;
use crate::progress::Bar;
use crate::terminal::{print, print_json, printable};
use crate::units::finite;
use anyhow::Context as _;
use rotor::bench::streams::{Streams, StreamsRun};
use rotor::bench::{Bench, Test};
use rotor::engine::Engine;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

/// One test on one number of threads.
struct Row {
    test: Streams,
    threads: usize,
    runs: Vec<StreamsRun>,
    /// Tokens per second of as many sequences that generate in step, all at the same depth.
    in_step: Rates,
}

pub(super) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    let tests = tests(args)?;
    let (rows, isa) = measure(args, &tests)?;
    if args.measure.json {
        let results: Vec<Value> = rows.iter().map(|row| row.json(&rows)).collect();
        print_json(&json!({"model": args.model_name(), "isa": isa, "results": results}))?;
    } else {
        print(&text(&args.model_name(), isa, &rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn tests(args: &Args) -> Result<Vec<Streams>, UsageError> {
    if args.n_prompt.contains(&0) || args.n_gen.contains(&0) {
        return Err(UsageError("--streams needs prompts and answers: -p and -n must be at least 1".into()));
    }
    let mut tests = Vec::new();
    for &prompt in &args.n_prompt {
        for &generate in &args.n_gen {
            tests.extend(args.streams.iter().map(|&streams| Streams { streams, prompt, generate }));
        }
    }
    Ok(tests)
}

fn measure(args: &Args, tests: &[Streams]) -> anyhow::Result<(Vec<Row>, &'static str)> {
    let context = tests.iter().map(|test| test.context()).max().unwrap_or(0);
    let mut engine = args.load_engine(context)?;
    let bar = Bar::steps("measuring");
    let threads = args.measure.threads();
    let total = (tests.len() * threads.len() * args.measure.repetitions) as u64;
    let mut rows = Vec::new();
    for threads in threads {
        engine.set_threads(threads);
        for &test in tests {
            let done = (rows.len() * args.measure.repetitions) as u64;
            rows.push(measure_in_turn(args, &engine, threads, test, &mut |run| bar.set(done + run as u64, total))?);
        }
    }
    Ok((rows, engine.model().runtime().kernels.isa().name()))
}

/// Requests that come and go, and as many sequences in step, in turn.
fn measure_in_turn(
    args: &Args,
    engine: &Engine,
    threads: usize,
    test: Streams,
    progress: &mut dyn FnMut(usize),
) -> anyhow::Result<Row> {
    let (kv, speculate) = (args.kv.kind(), args.speculate.kind());
    let Streams { streams: batch, prompt: depth, generate: tokens } = test;
    let beside = Test::Generate { tokens, depth, batch };
    let mut bench = Bench::new(engine, beside.context(), kv);
    bench.warm_up(engine, beside)?;
    Streams { generate: 2, ..test }.run(engine, kv, speculate)?;
    let (mut runs, mut rates) = (Vec::new(), Vec::new());
    for repetition in 0..args.measure.repetitions {
        runs.push(test.run(engine, kv, speculate)?);
        rates.push(beside.tokens() as f64 / bench.run(engine, beside)?.as_secs_f64());
        progress(repetition + 1);
    }
    let in_step = Rates::new(rates).with_context(|| format!("{beside} took no time that could be measured"))?;
    Ok(Row { test, threads, runs, in_step })
}

impl Row {
    /// Median tokens per second, prompts included in the time.
    fn rate(&self) -> Option<f64> {
        Some(Rates::new(self.runs.iter().map(StreamsRun::rate).collect())?.median())
    }

    /// Median tokens per second while all requests generate.
    fn decode_rate(&self) -> Option<f64> {
        Some(Rates::new(self.runs.iter().filter_map(StreamsRun::decode_rate).collect())?.median())
    }

    /// The same, as a multiple of one request's.
    fn multiple(&self, rows: &[Row]) -> Option<f64> {
        let one = Streams { streams: 1, ..self.test };
        let alone = rows.iter().find(|row| row.test == one && row.threads == self.threads)?;
        Some(self.decode_rate()? / alone.decode_rate()?)
    }

    /// Times of all runs, in milliseconds: the median, and what 95 of 100 do not exceed.
    fn milliseconds(&self, times: impl Fn(&StreamsRun) -> &[Duration]) -> [Option<f64>; 2] {
        let mut all: Vec<f64> = self.runs.iter().flat_map(times).map(|time| time.as_secs_f64() * 1e3).collect();
        all.sort_by(f64::total_cmp);
        [50, 95].map(|percent| all.get((all.len() * percent).div_ceil(100).saturating_sub(1)).copied())
    }

    /// Tokens of drafts, and those of them that were chosen.
    fn drafts(&self) -> [u64; 2] {
        self.runs.iter().fold([0, 0], |[all, right], run| [all + run.draft_tokens, right + run.accepted_tokens])
    }

    fn json(&self, rows: &[Row]) -> Value {
        let times = |[median, most]: [Option<f64>; 2]| json!({"median": median, "p95": most});
        let [draft_tokens, accepted_tokens] = self.drafts();
        json!({
            "streams": self.test.streams,
            "n_prompt": self.test.prompt,
            "n_gen": self.test.generate,
            "threads": self.threads,
            "lengths": self.test.lengths(),
            "tokens_per_second": finite(self.rate()),
            "decode_tokens_per_second": finite(self.decode_rate()),
            "multiple_of_one": finite(self.multiple(rows)),
            "in_step_tokens_per_second": self.in_step.json(),
            "first_token_ms": times(self.milliseconds(|run| &run.first_token)),
            "between_tokens_ms": times(self.milliseconds(|run| &run.between)),
            "draft_n": draft_tokens,
            "draft_n_accepted": accepted_tokens,
            "samples": self.runs.iter().map(|run| finite(Some(run.rate()))).collect::<Vec<_>>(),
        })
    }
}

/// The page for people.
fn text(name: &str, isa: &str, rows: &[Row]) -> String {
    let mut page = format!("{}, kernels of {isa}\n\n", printable(name));
    // Writing to a string does not fail.
    let _ = writeln!(
        page,
        "{:<26}{:>7}  {:>9}  {:>10}  {:>7}  {:>9}  {:>16}  {:>16}  {:>14}",
        "", "", "tokens/s:", "while all", "of one", "in step", "first token, ms:", "from token, ms:", "guessed tokens:"
    );
    let _ = writeln!(
        page,
        "{:<26}{:>7}  {:>9}  {:>10}  {:>7}  {:>9}  {:>16}  {:>16}  {:>14}",
        "requests", "threads", "whole run", "generate", "", "(-b)", "median, 95 %", "median, 95 %", "right, all"
    );
    for row in rows {
        let Streams { streams, prompt, generate } = row.test;
        let number = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.2}"));
        let times = |[median, most]: [Option<f64>; 2]| match (median, most) {
            (Some(median), Some(most)) => format!("{median:.1} {most:>7.1}"),
            _ => "-".into(),
        };
        let [all, right] = row.drafts();
        let drafts = if all == 0 { "-".into() } else { format!("{right} {all:>6}") };
        let _ = writeln!(
            page,
            "{:<26}{:>7}  {:>9}  {:>10}  {:>7}  {:>9}  {:>16}  {:>16}  {drafts:>14}",
            format!("{streams} of pp{prompt} + tg{generate}"),
            row.threads,
            number(row.rate()),
            number(row.decode_rate()),
            number(row.multiple(rows)),
            number(Some(row.in_step.median())),
            times(row.milliseconds(|run| &run.first_token)),
            times(row.milliseconds(|run| &run.between)),
        );
    }
    page
}
