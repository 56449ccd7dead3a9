//! A model's prompts and generation, test by test.

use super::compare::{Rival, RivalOutcome};
use super::measured::{Measured, Row};
use super::options::{MeasureArgs, repetitions};
use super::rates::Rates;
use super::{report, roofline};
use crate::args::{LoadArgs, OptionalModelArg, ReadArgs};
use crate::load;
use crate::outcome::UsageError;
use crate::progress::Bar;
use crate::terminal::{print, print_json};
use crate::values::{KvName, SpeculateName, context, whole_number};
use anyhow::Context as _;
use rotor::bench::{Bench, Cost, SkipCounts, Taken, Test};
use rotor::engine::Engine;
use rotor::formats::DenseActivations;
use rotor::head::HeadCounts;
use rotor::machine::{RoofMeter, Roofs};
use rotor::write::AtomicFile;
use std::process::ExitCode;

/// Most tokens of a test; at most what a model can have been trained for.
const MAX_TOKENS: usize = rotor::config::limits::CONTEXT;
/// More sequences than anybody decodes together on a CPU.
const MAX_BATCH: usize = 1024;

/// What is measured of a model.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    #[command(flatten)]
    model: OptionalModelArg,
    /// Prompt lengths, separated by commas; 0 leaves prompts out.
    #[arg(short = 'p', long, value_name = "N,...", default_value = "128", value_delimiter = ',', value_parser = tokens)]
    #[arg(env = "ROTOR_N_PROMPT", hide_env = true)]
    pub(super) n_prompt: Vec<usize>,
    /// Numbers of tokens to generate, separated by commas; 0 leaves generation out.
    #[arg(short = 'n', long, value_name = "N,...", default_value = "32", value_delimiter = ',', value_parser = tokens)]
    #[arg(env = "ROTOR_N_GEN", hide_env = true)]
    pub(super) n_gen: Vec<usize>,
    /// Tokens in the context before each test, separated by commas.
    #[arg(short, long, value_name = "N,...", default_value = "0", value_delimiter = ',', value_parser = tokens)]
    #[arg(env = "ROTOR_DEPTH", hide_env = true)]
    depth: Vec<usize>,
    /// Sequences that generate together, a token of each in a step; several, separated by commas.
    #[arg(short, long, value_name = "N,...", default_value = "1", value_delimiter = ',', value_parser = batch)]
    #[arg(env = "ROTOR_BATCH", hide_env = true)]
    batch: Vec<usize>,
    /// Numbers of requests that come and go together, through the batch of a server, separated by commas: prompts of -p and
    /// answers of -n tokens in the mean, one arriving with each step. The same many by -b stand beside them.
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = batch, env = "ROTOR_STREAMS", hide_env = true)]
    #[arg(conflicts_with_all = ["depth", "batch", "ctx", "compare", "svg"])]
    pub(super) streams: Vec<usize>,
    /// How requests of --streams guess what comes next; off, so that figures do not depend on what is said.
    #[arg(long, value_name = "HOW", default_value = "off", env = "ROTOR_SPECULATE", hide_env = true)]
    pub(super) speculate: SpeculateName,
    /// Room of each sequence [default: what the tests need].
    #[arg(short, long, value_name = "N", value_parser = context, env = "ROTOR_CTX", hide_env = true)]
    ctx: Option<usize>,
    /// How keys and values are stored.
    #[arg(long, value_name = "TYPE", default_value = "f16", env = "ROTOR_KV", hide_env = true)]
    pub(super) kv: KvName,
    /// Run another program in turn with this one, and print how many times faster this one is. COMMAND is split at spaces
    /// (quotes keep them) and run without a shell; it prints what llama-bench prints, as its table or with `-o json`, or what
    /// `rotor bench --json` prints. May be given several times.
    #[arg(long, value_name = "NAME=COMMAND", env = "ROTOR_COMPARE", hide_env = true)]
    compare: Vec<Rival>,
    /// How often the programs to compare take turns; each turn repeats every measurement.
    #[arg(long, value_name = "N", default_value = "2", value_parser = repetitions, requires = "compare")]
    #[arg(env = "ROTOR_ROUNDS", hide_env = true)]
    rounds: usize,
    #[command(flatten)]
    pub(super) measure: MeasureArgs,
    #[command(flatten)]
    read: ReadArgs,
    #[command(flatten)]
    load: LoadArgs,
}

fn tokens(text: &str) -> Result<usize, String> {
    whole_number(text, 0, MAX_TOKENS)
}

fn batch(text: &str) -> Result<usize, String> {
    whole_number(text, 1, MAX_BATCH)
}

pub(super) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    let tests = args.tests()?;
    let svg = args.svg_file()?;
    let measured = measure(args, &tests)?;
    if let Some(mut file) = svg {
        file.write(roofline::svg(&report::chart(&measured)).as_bytes())?;
        file.commit()?;
    }
    if args.measure.json {
        print_json(&report::json(&measured))?;
    } else {
        print(&report::text(&measured))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// Prompts before generation, in the order of the arguments.
    fn tests(&self) -> Result<Vec<Test>, UsageError> {
        let mut tests = Vec::new();
        for &depth in &self.depth {
            let prompts = self.n_prompt.iter().filter(|tokens| **tokens > 0);
            tests.extend(prompts.map(|&tokens| Test::Prompt { tokens, depth }));
            for &batch in &self.batch {
                let lengths = self.n_gen.iter().filter(|tokens| **tokens > 0);
                tests.extend(lengths.map(|&tokens| Test::Generate { tokens, depth, batch }));
            }
        }
        if tests.is_empty() {
            return Err(UsageError("there is nothing to measure: -p and -n are both 0".into()));
        }
        let needed = tests.iter().map(|test| test.context()).max().unwrap_or(0);
        match self.ctx {
            Some(ctx) if ctx < needed => {
                Err(UsageError(format!("--ctx {ctx} is too small: the tests need a context of {needed} tokens")))
            }
            _ => Ok(tests),
        }
    }

    /// The file to draw to, which is not the model.
    fn svg_file(&self) -> anyhow::Result<Option<AtomicFile>> {
        let Some(path) = &self.measure.svg else { return Ok(None) };
        if let Some(model) = self.model.path() {
            load::open_file(model, &self.load.open)?.refuse_overwriting(path)?;
        }
        self.load.open.refuse_overwriting(path)?;
        Ok(Some(AtomicFile::create(path)?))
    }

    fn context(&self, tests: &[Test]) -> usize {
        self.ctx.unwrap_or_else(|| tests.iter().map(|test| test.context()).max().unwrap_or(0))
    }

    /// Loads the model for the most threads that are measured with.
    pub(super) fn load_engine(&self, context: usize) -> anyhow::Result<Engine> {
        let source =
            load::open_or_demo(self.model.path(), &self.load.options(DenseActivations::default(), self.read.read())?)?;
        let engine = load::load(&source, self.measure.threads().into_iter().max().unwrap_or(1))?;
        load::warn_of_context(&engine, context);
        Ok(engine)
    }

    /// The model as it was named.
    pub(super) fn model_name(&self) -> String {
        self.model.path().map_or_else(|| rotor::demo::NAME.into(), |path| path.display().to_string())
    }
}

fn measure(args: &Args, tests: &[Test]) -> anyhow::Result<Measured> {
    let threads = args.measure.threads();
    let mut engine = args.load_engine(args.context(tests))?;
    let (turns, rivals) = take_turns(args, tests, &threads, &mut engine)?;
    let (roofs, rows) = turns.finish()?;
    Ok(Measured {
        name: args.model_name(),
        isa: engine.model().runtime().kernels.isa().name(),
        kernels: engine.model().kernel_names(),
        cost: Cost::of(engine.model(), args.kv.kind()),
        roofs,
        rows,
        rivals,
    })
}

/// Measures on each number of threads, and then runs the programs to compare with, as often as there are rounds.
fn take_turns<'a>(
    args: &Args,
    tests: &'a [Test],
    threads: &'a [usize],
    engine: &mut Engine,
) -> anyhow::Result<(Turns<'a>, Vec<RivalOutcome>)> {
    let meter = RoofMeter::new(&engine.model().runtime().pool).context("no memory to measure read bandwidth with")?;
    let mut bench = Bench::new(engine, args.context(tests), args.kv.kind());
    bench.fill(engine, tests.iter().map(|test| test.depth()).max().unwrap_or(0))?;
    let rounds = if args.compare.is_empty() { 1 } else { args.rounds };
    let mut turns = Turns::new(tests, threads, args.measure.repetitions, rounds);
    let mut rivals: Vec<RivalOutcome> = args.compare.iter().map(RivalOutcome::new).collect();
    for _ in 0..rounds {
        for (index, &threads) in threads.iter().enumerate() {
            engine.set_threads(threads);
            turns.roofs(index, meter.measure(engine.model().runtime()));
            turns.run(engine, &mut bench, index)?;
        }
        for rival in &mut rivals {
            rival.run()?;
        }
    }
    Ok((turns, rivals))
}

/// What has been measured so far, for each number of threads and each test.
struct Turns<'a> {
    tests: &'a [Test],
    threads: &'a [usize],
    repetitions: usize,
    roofs: Vec<Option<Roofs>>,
    /// `[threads][test]`, tokens per second.
    samples: Vec<Vec<Vec<f64>>>,
    /// `[threads][test]`, of all repetitions.
    heads: Vec<Vec<HeadCounts>>,
    /// The same of linears that can leave rows and columns unread.
    skips: Vec<Vec<SkipCounts>>,
    bar: Bar,
    done: u64,
    total: u64,
}

impl<'a> Turns<'a> {
    fn new(tests: &'a [Test], threads: &'a [usize], repetitions: usize, rounds: usize) -> Self {
        Turns {
            tests,
            threads,
            repetitions,
            roofs: vec![None; threads.len()],
            samples: vec![vec![Vec::new(); tests.len()]; threads.len()],
            heads: vec![vec![HeadCounts::default(); tests.len()]; threads.len()],
            skips: vec![vec![SkipCounts::default(); tests.len()]; threads.len()],
            bar: Bar::steps("measuring"),
            done: 0,
            total: (tests.len() * threads.len() * repetitions * rounds) as u64,
        }
    }

    /// A roof is what the machine has been seen to do: the most of all turns.
    fn roofs(&mut self, index: usize, measured: Roofs) {
        let best = self.roofs[index].get_or_insert(measured);
        best.read_bandwidth = best.read_bandwidth.max(measured.read_bandwidth);
        best.yardstick = best.yardstick.max(measured.yardstick);
        best.multiply_peak = best.multiply_peak.max(measured.multiply_peak);
    }

    fn run(&mut self, engine: &Engine, bench: &mut Bench, index: usize) -> anyhow::Result<()> {
        let results = self.samples[index].iter_mut().zip(&mut self.heads[index]).zip(&mut self.skips[index]);
        for (&test, ((samples, head), skips)) in self.tests.iter().zip(results) {
            bench.warm_up(engine, test)?;
            let (before, skipped) = (bench.head_counts(), bench.skip_counts());
            for _ in 0..self.repetitions {
                let time = bench.run(engine, test)?;
                samples.push(test.tokens() as f64 / time.as_secs_f64());
                self.done += 1;
                self.bar.set(self.done, self.total);
            }
            let after = bench.head_counts();
            head.tokens += after.tokens - before.tokens;
            head.rows += after.rows - before.rows;
            *skips += bench.skip_counts() - skipped;
        }
        Ok(())
    }

    fn finish(self) -> anyhow::Result<(Vec<Roofs>, Vec<Row>)> {
        let mut rows = Vec::new();
        let results = self.samples.into_iter().zip(self.heads).zip(self.skips);
        for (&threads, ((samples, heads), skips)) in self.threads.iter().zip(results) {
            for (&test, ((samples, head), skips)) in self.tests.iter().zip(samples.into_iter().zip(heads).zip(skips)) {
                let rates =
                    Rates::new(samples).with_context(|| format!("{test} took no time that could be measured"))?;
                let head_rows = (head.tokens > 0).then(|| head.rows as f64 / head.tokens as f64);
                let share = |read: u64, all: u64| if all == 0 { 1.0 } else { read as f64 / all as f64 };
                let (up, down) = (share(skips.rows_read, skips.rows), share(skips.columns_read, skips.columns));
                let taken = Taken { head_rows, rows: up, columns: down };
                rows.push(Row { test, threads, rates, taken, skips: skips.rows + skips.columns > 0 });
            }
        }
        Ok((self.roofs.into_iter().flatten().collect(), rows))
    }
}
