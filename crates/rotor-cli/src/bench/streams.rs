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

/// All tests in turn, once for each repetition, so that what slows the machine down slows all of them down.
fn measure(args: &Args, tests: &[Streams]) -> anyhow::Result<(Vec<Row>, &'static str)> {
    let context = tests.iter().map(|test| test.context()).max().unwrap_or(0);
    let mut engine = args.load_engine(context)?;
    let bar = Bar::steps("measuring");
    let threads = args.measure.threads();
    let total = (tests.len() * threads.len() * args.measure.repetitions) as u64;
    let (mut rows, mut done) = (Vec::new(), 0);
    for threads in threads {
        engine.set_threads(threads);
        let warm = tests.iter().map(|&test| Measured::warmed_up(args, &engine, test));
        let mut measured = warm.collect::<anyhow::Result<Vec<Measured>>>()?;
        for _ in 0..args.measure.repetitions {
            for test in &mut measured {
                test.repeat(args, &engine)?;
                done += 1;
                bar.set(done, total);
            }
        }
        rows.extend(measured.into_iter().map(|test| test.row(threads)).collect::<anyhow::Result<Vec<Row>>>()?);
    }
    Ok((rows, engine.model().runtime().kernels.isa().name()))
}

/// Requests that come and go, and as many sequences in step.
struct Measured {
    test: Streams,
    beside: Test,
    bench: Bench,
    runs: Vec<StreamsRun>,
    in_step: Vec<f64>,
}

impl Measured {
    fn warmed_up(args: &Args, engine: &Engine, test: Streams) -> anyhow::Result<Measured> {
        let Streams { streams: batch, prompt: depth, generate: tokens } = test;
        let beside = Test::Generate { tokens, depth, batch };
        let mut bench = Bench::new(engine, beside.context(), args.kv.kind());
        bench.warm_up(engine, beside)?;
        Streams { generate: 2, ..test }.run(engine, args.kv.kind(), args.speculate.kind())?;
        Ok(Measured { test, beside, bench, runs: Vec::new(), in_step: Vec::new() })
    }

    /// One after the other.
    fn repeat(&mut self, args: &Args, engine: &Engine) -> anyhow::Result<()> {
        self.runs.push(self.test.run(engine, args.kv.kind(), args.speculate.kind())?);
        self.in_step.push(self.beside.tokens() as f64 / self.bench.run(engine, self.beside)?.as_secs_f64());
        Ok(())
    }

    fn row(self, threads: usize) -> anyhow::Result<Row> {
        let Measured { test, beside, runs, in_step, .. } = self;
        let in_step = Rates::new(in_step).with_context(|| format!("{beside} took no time that could be measured"))?;
        Ok(Row { test, threads, runs, in_step })
    }
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

    /// The same, as a multiple of one request's: the median of what the repetitions say, each by its own run of one request.
    fn multiple(&self, rows: &[Row]) -> Option<f64> {
        let one = Streams { streams: 1, ..self.test };
        let alone = rows.iter().find(|row| row.test == one && row.threads == self.threads)?;
        let pairs = self.runs.iter().zip(&alone.runs);
        let multiples = pairs.filter_map(|(run, alone)| Some(run.decode_rate()? / alone.decode_rate()?));
        Some(Rates::new(multiples.collect())?.median())
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
            "decode_samples": self.runs.iter().map(|run| finite(run.decode_rate())).collect::<Vec<_>>(),
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
