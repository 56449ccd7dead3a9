//! Other programs that measure the same, run in turn with this one.
//!
//! A clock that changes, a neighbour that wakes up: what is measured minutes apart does not compare. So the programs take
//! turns in one run, and the ratio is that of the medians over all turns.

use super::rates::Rates;
use anyhow::{Context as _, bail};
use serde_json::Value;
use std::process::{Command, Stdio};
use std::str::FromStr;

/// A program to compare with, as the command line names it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rival {
    name: String,
    words: Vec<String>,
}

impl FromStr for Rival {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected NAME=COMMAND, found {text:?}");
        let (name, command) = text.split_once('=').ok_or_else(expected)?;
        let words = words(command)?;
        if name.is_empty() || words.is_empty() {
            return Err(expected());
        }
        Ok(Rival { name: name.to_owned(), words })
    }
}

/// Words as a shell splits them: at white space, but not inside quotes; a backslash takes the next character as it is.
fn words(command: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = command.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let next = characters.next().ok_or("nothing follows the last backslash")?;
                word.get_or_insert_default().push(next);
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(quote) = quote {
        return Err(format!("a {quote} is not closed"));
    }
    words.extend(word);
    Ok(words)
}

/// A test as the other program measured it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RivalResult {
    /// Named as ours are.
    pub(super) test: String,
    /// `None` where the program does not tell.
    pub(super) threads: Option<usize>,
    /// Tokens per second.
    pub(super) rates: Rates,
}

impl RivalResult {
    /// Whether this is the test of ours.
    pub(super) fn is_of(&self, test: &str, threads: usize) -> bool {
        self.test == test && self.threads.is_none_or(|count| count == threads)
    }
}

/// A program and what it has measured so far.
#[derive(Debug)]
pub(super) struct RivalOutcome {
    rival: Rival,
    results: Vec<RivalResult>,
}

impl RivalOutcome {
    pub(super) fn new(rival: &Rival) -> Self {
        RivalOutcome { rival: rival.clone(), results: Vec::new() }
    }

    pub(super) fn name(&self) -> &str {
        &self.rival.name
    }

    pub(super) fn command(&self) -> String {
        self.rival.words.join(" ")
    }

    /// In the order they were first measured.
    pub(super) fn results(&self) -> &[RivalResult] {
        &self.results
    }

    /// Runs the program once and adds what it prints.
    pub(super) fn run(&mut self) -> anyhow::Result<()> {
        let name = &self.rival.name;
        let output = Command::new(&self.rival.words[0])
            .args(&self.rival.words[1..])
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("--compare {name}: cannot run {:?}", self.rival.words[0]))?;
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr);
            let last = told.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
            bail!("--compare {name}: the command failed ({}): {last}", output.status);
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let results = parse(&text).with_context(|| format!("--compare {name}"))?;
        for result in results {
            self.add(result);
        }
        Ok(())
    }

    fn add(&mut self, new: RivalResult) {
        let same = |old: &&mut RivalResult| old.test == new.test && old.threads == new.threads;
        match self.results.iter_mut().find(same) {
            Some(old) => {
                let samples = [old.rates.samples(), new.rates.samples()].concat();
                old.rates = Rates::new(samples).unwrap_or_else(|| old.rates.clone());
            }
            None => self.results.push(new),
        }
    }
}

/// What a program printed: llama-bench's JSON or its table, or our own JSON.
fn parse(text: &str) -> anyhow::Result<Vec<RivalResult>> {
    let results = match json_in(text) {
        Some(Value::Array(rows)) => rows.iter().filter_map(llama_row).collect(),
        Some(Value::Object(object)) => {
            object.get("results").and_then(Value::as_array).into_iter().flatten().filter_map(own_row).collect()
        }
        _ => table(text),
    };
    if results.is_empty() {
        bail!("expected the results of llama-bench (its table, or -o json) or of rotor bench --json, found none");
    }
    Ok(results)
}

/// The JSON that begins at the start of a line; programs print other lines before it.
fn json_in(text: &str) -> Option<Value> {
    let starts = text.match_indices(['[', '{']).map(|(at, _)| at);
    let mut at_line_starts = starts.filter(|&at| at == 0 || text.as_bytes()[at - 1] == b'\n');
    at_line_starts.find_map(|at| serde_json::Deserializer::from_str(&text[at..]).into_iter().next()?.ok())
}

/// An element of llama-bench's JSON.
fn llama_row(row: &Value) -> Option<RivalResult> {
    let count = |key: &str| row.get(key).and_then(Value::as_u64).unwrap_or(0);
    let (prompt, generated, depth) = (count("n_prompt"), count("n_gen"), count("n_depth"));
    let mut test = match (prompt, generated) {
        (0, generated) => format!("tg{generated}"),
        (prompt, 0) => format!("pp{prompt}"),
        (prompt, generated) => format!("pp{prompt}+tg{generated}"),
    };
    if depth > 0 {
        test.push_str(&format!(" @ d{depth}"));
    }
    let samples = numbers(row.get("samples_ts"));
    let samples = if samples.is_empty() { vec![row.get("avg_ts")?.as_f64()?] } else { samples };
    Some(RivalResult { test, threads: threads(row.get("n_threads")), rates: Rates::new(samples)? })
}

/// An element of our own results.
fn own_row(row: &Value) -> Option<RivalResult> {
    let test = row.get("test")?.as_str()?.to_owned();
    let samples = numbers(row.get("samples"));
    let median = row.get("tokens_per_second").and_then(|rates| rates.get("median")).and_then(Value::as_f64);
    let samples = if samples.is_empty() { vec![median?] } else { samples };
    Some(RivalResult { test, threads: threads(row.get("threads")), rates: Rates::new(samples)? })
}

fn numbers(value: Option<&Value>) -> Vec<f64> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_f64).collect()
}

fn threads(value: Option<&Value>) -> Option<usize> {
    value.and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok())
}

/// The rows of a markdown table with the columns `test` and `t/s`.
fn table(text: &str) -> Vec<RivalResult> {
    let mut results = Vec::new();
    let mut header: Vec<&str> = Vec::new();
    for line in text.lines() {
        let Some(line) = line.trim().strip_prefix('|') else { continue };
        let cells: Vec<&str> = line.trim_end_matches('|').split('|').map(str::trim).collect();
        if cells.contains(&"test") && cells.contains(&"t/s") {
            header = cells;
            continue;
        }
        let cell = |name: &str| Some(*cells.get(header.iter().position(|column| *column == name)?)?);
        // "88.12 ± 0.30"; the row of dashes under the header has no number.
        let rate = cell("t/s").and_then(|cell| cell.split_whitespace().next()?.parse().ok());
        if let (Some(test), Some(rates)) = (cell("test"), rate.and_then(|rate| Rates::new(vec![rate]))) {
            let threads = cell("threads").and_then(|cell| cell.parse().ok());
            results.push(RivalResult { test: test_name(test), threads, rates });
        }
    }
    results
}

/// Older programs write `pp 128`, and `tg32@d512`.
fn test_name(cell: &str) -> String {
    let packed: String = cell.chars().filter(|c| !c.is_whitespace()).collect();
    packed.replace('@', " @ ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rival(text: &str) -> Result<Vec<String>, String> {
        text.parse::<Rival>().map(|rival| rival.words)
    }

    #[test]
    fn commands_are_split_as_a_shell_splits_words() {
        assert_eq!(rival("a=b -t 1,2").unwrap(), ["b", "-t", "1,2"]);
        assert_eq!(rival("a= \"x y\"z '\\\"' \\  ''").unwrap(), ["x yz", "\\\"", " ", ""]);
        assert_eq!(rival("a=env B=C d").unwrap(), ["env", "B=C", "d"]);
        assert_eq!(rival("a='b").unwrap_err(), "a ' is not closed");
        assert_eq!(rival("a=b \\").unwrap_err(), "nothing follows the last backslash");
        for wrong in ["", "a", "a=", "=b", "a=  "] {
            assert_eq!(rival(wrong).unwrap_err(), format!("expected NAME=COMMAND, found {wrong:?}"));
        }
    }

    fn parsed(text: &str) -> Vec<(String, Option<usize>, f64)> {
        parse(text).unwrap().into_iter().map(|r| (r.test, r.threads, r.rates.median())).collect()
    }

    #[test]
    fn llama_benchs_json_is_read() {
        let text = r#"load: a line before it
[
  {"n_prompt": 128, "n_gen": 0, "n_threads": 2, "avg_ts": 24.5, "samples_ts": [24.0, 24.4, 25.0]},
  {"n_prompt": 0, "n_gen": 32, "n_threads": 1, "avg_ts": 6.5},
  {"n_prompt": 0, "n_gen": 32, "n_depth": 2048, "n_threads": 1, "avg_ts": 5.5, "samples_ts": []},
  {"n_prompt": 16, "n_gen": 4, "n_threads": 1, "avg_ts": 9.0}
]"#;
        let expected = [
            ("pp128".to_owned(), Some(2), 24.4),
            ("tg32".to_owned(), Some(1), 6.5),
            ("tg32 @ d2048".to_owned(), Some(1), 5.5),
            ("pp16+tg4".to_owned(), Some(1), 9.0),
        ];
        assert_eq!(parsed(text), expected);
    }

    #[test]
    fn llama_benchs_table_is_read() {
        let text = "\
| model                | size | params | backend | threads |         test |           t/s |
| -------------------- | ---: | -----: | ------- | ------: | -----------: | ------------: |
| bitnet 2B I2_S [old] | 1.10 GiB | 2.4 B | CPU   |       2 |        pp128 | 21.20 ± 0.13 |
| bitnet 2B I2_S [old] | 1.10 GiB | 2.4 B | CPU   |       2 | tg32 @ d512  |  8.41 ± 0.01 |

build: 0123456 (1)
";
        assert_eq!(parsed(text), [("pp128".to_owned(), Some(2), 21.2), ("tg32 @ d512".to_owned(), Some(2), 8.41)]);
        let old = "|model|test|t/s|\n|---|---|---|\n|a|pp 128|3.5|";
        assert_eq!(parsed(old), [("pp128".to_owned(), None, 3.5)]);
    }

    #[test]
    fn our_own_json_is_read() {
        let text = r#"{"results": [
            {"test": "tg32 b8", "threads": 2, "tokens_per_second": {"median": 5.0}, "samples": [4.0, 6.0, 7.0]},
            {"test": "pp8", "threads": 1, "tokens_per_second": {"median": 5.0}}]}"#;
        assert_eq!(parsed(text), [("tg32 b8".to_owned(), Some(2), 6.0), ("pp8".to_owned(), Some(1), 5.0)]);
    }

    #[test]
    fn output_without_results_is_refused() {
        for text in ["", "[]", "{}", "| test | t/s |\n| --- | --- |", "hello", "[1, 2", "[{\"n_gen\": 3}]"] {
            assert!(parse(text).unwrap_err().to_string().contains("expected the results of llama-bench"), "{text}");
        }
    }

    #[test]
    fn turns_add_up() {
        let mut outcome = RivalOutcome::new(&"a=b".parse().unwrap());
        for rate in [1.0, 3.0] {
            let rates = Rates::new(vec![rate]).unwrap();
            outcome.add(RivalResult { test: "pp1".into(), threads: Some(1), rates });
        }
        assert_eq!(outcome.results().len(), 1);
        assert_eq!(outcome.results()[0].rates.samples(), [1.0, 3.0]);
        assert!(outcome.results()[0].is_of("pp1", 1) && !outcome.results()[0].is_of("pp1", 2));
    }
}
