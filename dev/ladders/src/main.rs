//! The ladders of the kernels that matter most: each step from a plain version to the one that is used.
//!
//! A step that was replaced would be gone, and with it the reason for what replaced it. Here the earlier steps stay; those in
//! use are called where they live. Every step must give the same integers as the plain one before it is timed.

#[cfg(target_arch = "x86_64")]
mod decode;
#[cfg(target_arch = "x86_64")]
mod ladder;
#[cfg(target_arch = "x86_64")]
mod prompt;
#[cfg(target_arch = "x86_64")]
mod skipping;
#[cfg(target_arch = "x86_64")]
mod tables;

use anyhow::{Context, Result, bail, ensure};

const USAGE: &str = "usage: rotor-ladders [decode|prompt|tables|skipping] [--rounds N]";
/// The fewest rounds whose median says something.
const MIN_ROUNDS: usize = 7;
const DEFAULT_ROUNDS: usize = 31;

/// Which ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    /// One token, weights from memory.
    Decode,
    /// Many tokens, weights from the L2 cache.
    Prompt,
    /// Many tokens, many rows.
    Tables,
    /// One token, weights from memory that need not all be read.
    Skipping,
}

const ALL: [Name; 4] = [Name::Decode, Name::Prompt, Name::Tables, Name::Skipping];

fn main() -> Result<()> {
    let (names, rounds) = parse(std::env::args().skip(1))?;
    run(&names, rounds)
}

/// The ladders asked for, all where none is named, and the number of rounds.
fn parse(mut words: impl Iterator<Item = String>) -> Result<(Vec<Name>, usize)> {
    let (mut names, mut rounds) = (Vec::new(), DEFAULT_ROUNDS);
    while let Some(word) = words.next() {
        match word.as_str() {
            "decode" => names.push(Name::Decode),
            "prompt" => names.push(Name::Prompt),
            "tables" => names.push(Name::Tables),
            "skipping" => names.push(Name::Skipping),
            "--rounds" => {
                let number =
                    words.next().with_context(|| format!("--rounds: expected a number, found nothing\n{USAGE}"))?;
                rounds = number
                    .parse()
                    .with_context(|| format!("--rounds: expected a number, found {number:?}\n{USAGE}"))?;
                ensure!(rounds >= MIN_ROUNDS, "--rounds: expected at least {MIN_ROUNDS}, found {rounds}");
            }
            _ => bail!("expected decode, prompt, tables, skipping or --rounds, found {word:?}\n{USAGE}"),
        }
    }
    if names.is_empty() {
        names = ALL.to_vec();
    }
    Ok((names, rounds))
}

#[cfg(target_arch = "x86_64")]
fn run(names: &[Name], rounds: usize) -> Result<()> {
    let cpu = rotor_kernels::cpu_name().unwrap_or_else(|| String::from("a CPU without a name"));
    println!("{cpu}, one thread, medians of {rounds} rounds");
    for name in names {
        match name {
            Name::Decode => decode::climb(rounds)?,
            Name::Prompt => prompt::climb(rounds)?,
            Name::Tables => tables::climb(rounds)?,
            Name::Skipping => skipping::climb(rounds)?,
        }
    }
    Ok(())
}

#[cfg(not(target_arch = "x86_64"))]
fn run(names: &[Name], _: usize) -> Result<()> {
    println!("{names:?}: the ladders are of x86-64 kernels, so there is nothing to time on this CPU");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn every_step_multiplies_exactly() {
        decode::check().unwrap();
        prompt::check().unwrap();
        tables::check().unwrap();
        skipping::check().unwrap();
    }

    #[test]
    fn an_unknown_word_is_an_error_that_names_it() {
        let parse = |words: &[&str]| parse(words.iter().map(|word| String::from(*word)));
        assert_eq!(parse(&[]).unwrap(), (ALL.to_vec(), DEFAULT_ROUNDS));
        assert_eq!(parse(&["prompt", "--rounds", "9"]).unwrap(), (vec![Name::Prompt], 9));
        for (words, named) in [(&["decoed"][..], "decoed"), (&["--rounds", "many"], "many"), (&["--rounds", "3"], "3")]
        {
            assert!(parse(words).unwrap_err().to_string().contains(named));
        }
        assert!(parse(&["--rounds"]).is_err());
    }
}
