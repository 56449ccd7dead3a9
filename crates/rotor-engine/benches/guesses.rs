//! What guesses of the next tokens are worth, and what they cost where they mislead.
//!
//! `cargo bench -p rotor-engine --bench guesses -- MODEL [ROUNDS] [TOKENS]`. The model says given texts, by a constraint that
//! allows one token at a time, with guesses on and off in turn. A line is one text: the median over the rounds of the times
//! without guesses over those with, the least and the most of them, and the tokens of drafts.

use rotor::batch::BatchOptions;
use rotor::constraint::{Allowed, Constraint, ConstraintError};
use rotor::engine::{Engine, GenerateOptions};
use rotor::formats::{OpenOptions, Source};
use rotor::request::{Event, Request};
use rotor::runtime::Runtime;
use rotor::speculate::Speculate;
use std::error::Error;
use std::time::Instant;

/// Allows the tokens of a text, one after the other.
#[derive(Clone, Debug)]
struct Given {
    text: Vec<u32>,
    at: usize,
}

impl Constraint for Given {
    fn mask(&mut self, logits: &mut [f32]) -> Result<Allowed, ConstraintError> {
        let Some(&next) = self.text.get(self.at) else { return Ok(Allowed::End) };
        for (token, logit) in (0u32..).zip(logits) {
            if token != next {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(Allowed::Some)
    }

    fn accept(&mut self, _: u32) -> Result<(), ConstraintError> {
        self.at += 1;
        Ok(())
    }

    fn roll_back(&mut self, tokens: usize) -> Result<(), ConstraintError> {
        self.at -= tokens;
        Ok(())
    }

    fn fork(&self) -> Option<Box<dyn Constraint>> {
        Some(Box::new(self.clone()))
    }
}

/// A prompt, and what is said after it.
struct Text {
    name: String,
    tokens: Vec<u32>,
    prompt: usize,
}

impl Text {
    fn new(name: &str, tokens: Vec<u32>, said: usize) -> Text {
        let prompt = tokens.len() - said;
        Text { name: name.to_owned(), tokens, prompt }
    }
}

/// Tokens that do not repeat.
fn fresh(count: usize) -> Vec<u32> {
    (0..count as u32).map(|token| 300 + token * 7).collect()
}

/// Says what the prompt says, but for one token in 48.
fn edited(said: usize) -> Text {
    let mut tokens = fresh(said);
    let again = tokens.clone();
    tokens.extend(again.iter().enumerate().map(|(at, token)| if at % 48 == 24 { token + 3 } else { *token }));
    Text::new("repeats, with an edit in 48 tokens", tokens, said)
}

/// Something new, then what the prompt says.
fn quoted(said: usize) -> Text {
    let mut tokens = fresh(said);
    let quote = tokens[said / 8..said / 8 + said * 3 / 4].to_vec();
    tokens.extend((0..said - quote.len()).map(|at| 290 - at as u32));
    tokens.extend(quote);
    Text::new("something new, then a quotation", tokens, said)
}

fn never(said: usize) -> Text {
    Text::new("never repeats", fresh(3 * said), said)
}

/// One of a few pairs, then a token that never follows it again.
fn pairs(said: usize) -> Text {
    let pairs = [[11u32, 12], [13, 14], [15, 16], [17, 18]];
    let tokens = fresh(said).into_iter().zip(pairs.into_iter().cycle());
    let tokens: Vec<u32> = tokens.flat_map(|(token, [first, second])| [first, second, token]).collect();
    Text::new("pairs recur, then something new", tokens, said)
}

/// Few different tokens, which go on otherwise than they did wherever they repeat themselves: every guess is wrong.
fn misleading(different: u32, said: usize) -> Text {
    let (mut tokens, mut random) = (Vec::new(), fastrand::Rng::with_seed(7));
    while tokens.len() < 3 * said {
        let run =
            |place: usize| tokens[..place].iter().rev().zip(tokens.iter().rev()).take_while(|(a, b)| a == b).count();
        let guess = (2..tokens.len()).filter(|&place| run(place) >= 2).max_by_key(|&place| run(place).min(32));
        let next = random.u32(..different);
        let is_guessed = guess.is_some_and(|place| tokens[place] == next);
        tokens.push(if is_guessed { (next + 1) % different } else { next });
    }
    let tokens = tokens.iter().map(|token| 300 + 7 * token).collect();
    Text::new(&format!("{different} tokens recur, every guess is wrong"), tokens, said)
}

/// Seconds that the text takes behind its prompt and first token, with the tokens of drafts computed and chosen.
fn say(engine: &Engine, text: &Text, speculate: Speculate) -> Result<(f64, u64, u64), Box<dyn Error>> {
    let mut batch = engine.batch(BatchOptions { speculate, sequences: 1, ..BatchOptions::new(text.tokens.len() + 1) });
    let (prompt, said) = text.tokens.split_at(text.prompt);
    let options = GenerateOptions { max_tokens: Some(said.len()), ignore_eos: true, ..GenerateOptions::default() };
    let constraint = Given { text: said.to_vec(), at: 0 };
    engine.submit(
        &mut batch,
        Request { constraint: Some(Box::new(constraint)), ..Request::new(prompt.to_vec(), options) },
    )?;
    let (mut start, mut seconds) = (None, 0.0);
    while !batch.is_idle() {
        for (_, event) in batch.step(engine.model()) {
            match event {
                Event::Token(_) => seconds = start.get_or_insert_with(Instant::now).elapsed().as_secs_f64(),
                Event::Finished(end) => assert_eq!(end.generation.tokens, said, "the text is not the one given"),
                Event::Failed { error, .. } => return Err(error.into()),
                _ => {}
            }
        }
    }
    let counts = batch.statistics().counts;
    Ok((seconds, counts.draft_tokens, counts.accepted_tokens))
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let Some(model) = arguments.first() else { return Ok(()) };
    let number = |at: usize, default| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let (rounds, said) = (number(1, 5)?, number(2, 128)?);
    let source = Source::open(model.as_ref(), &OpenOptions::default())?;
    let engine = Engine::from_source(&source, &Runtime::new(2)?, &mut |_| {})?;
    let texts = [
        edited(said),
        quoted(said),
        never(said),
        pairs(said),
        misleading(8, said),
        misleading(3, said),
        misleading(2, said),
    ];
    for text in texts {
        let mut ratios = Vec::new();
        let mut drafts = (0, 0);
        for round in 0..rounds {
            // Each is the first as often as the other.
            let order =
                if round % 2 == 0 { [Speculate::Off, Speculate::Lookup] } else { [Speculate::Lookup, Speculate::Off] };
            let mut seconds = [0.0; 2];
            for speculate in order {
                let (time, computed, chosen) = say(&engine, &text, speculate)?;
                seconds[usize::from(speculate == Speculate::Off)] = time;
                if speculate == Speculate::Lookup {
                    drafts = (computed, chosen);
                }
            }
            ratios.push(seconds[1] / seconds[0]);
        }
        ratios.sort_by(f64::total_cmp);
        let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
        let median = ratios[ratios.len() / 2];
        println!("{:<44} {median:.3} ({least:.3} to {most:.3}), drafts {} right of {}", text.name, drafts.1, drafts.0);
    }
    Ok(())
}
