//! Speculation: what a sequence will say next, guessed, and how much of the guess is worth computing.
//!
//! A step reads every weight once, however many tokens it computes, so a few tokens take little longer than one. A sequence
//! therefore has a draft of its next tokens computed in the same step; those that the sampler does not choose are dropped
//! ([`crate::sequence`]), and no token changes. What is drafted is decided anew for each step:
//!
//! 1. **What may follow** (`Lookup`, known as prompt lookup): the longest run of tokens at the end of the text that occurred
//!    before, the latest occurrence among equals; the guess is what followed it there. Places are found as LZ77 finds them: a
//!    hash table of pairs of tokens, and for each place the one before it behind the same pair. A guess costs microseconds,
//!    however long the text.
//! 2. **How sure that is** (`Odds`): how often the first token of a guess was right lately, by the length of the run. Every
//!    guess is scored by the tokens that came, whether it was computed or not. So a sequence has nothing computed before a
//!    guess of its own was right, stops drafting when it stops repeating itself and starts again when it begins to, and
//!    never pays for finding out.
//! 3. **What it costs** (`StepTimes`): the time of a step by its number of tokens, learnt from the steps themselves. A
//!    measurement of its own would take longer than many a text, and would know nothing of the context's length.
//! 4. Of all drafts the one is computed that gives the most tokens per second, summed over the sequences of the step; where
//!    none gives more than no draft, there is none.

use std::collections::HashMap;
use std::time::Duration;

/// How sequences guess what comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speculate {
    /// Not at all.
    Off,
    /// From what was said before, where that pays.
    #[default]
    Lookup,
    /// As `Lookup`, whether it pays or not: for tests and measurements.
    LookupAlways,
}

/// Most tokens of a draft.
const MOST_DRAFT: usize = 15;
/// Most tokens of a step that has drafts.
const MOST_TOKENS: usize = 32;
/// Longest run of tokens that is compared.
const LONGEST_RUN: usize = 32;
/// Places that are compared for a guess, the latest first.
const CANDIDATES: usize = 32;
/// What a draft has to promise, as a multiple of the rate without it: times and odds are estimates.
const LEAST_GAIN: f32 = 1.03;

/// The guesses of one sequence. It takes no memory before the first.
#[derive(Debug, Default)]
pub(crate) struct Guesser {
    lookup: Lookup,
    odds: Odds,
    last: Option<Guess>,
}

/// A guess of what follows the first `at` tokens: the tokens from `place` on, which came after the same `run` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Guess {
    at: usize,
    place: usize,
    run: usize,
}

impl Guesser {
    /// Guesses what follows `tokens`, which begin with those of the last call. Returns for each of at most `most` tokens how
    /// likely it and all before it are right; nothing where there is no guess.
    pub(crate) fn guess(&mut self, tokens: &[u32], most: usize) -> Vec<f32> {
        if let Some(last) = self.last.take() {
            self.odds.score(last, tokens);
        }
        self.last = self.lookup.find(tokens);
        let Some(guess) = self.last else { return Vec::new() };
        let odds = |token| self.odds.of(guess.run + token);
        let product = |chance: &mut f32, odds: f32| {
            *chance *= odds;
            Some(*chance)
        };
        (0..most.min(MOST_DRAFT)).map(odds).scan(1.0, product).collect()
    }

    /// The first `length` tokens of the last guess, which was made of `tokens`.
    pub(crate) fn draft(&self, tokens: &[u32], length: usize) -> Vec<u32> {
        let Some(guess) = self.last else { return Vec::new() };
        let mut draft: Vec<u32> = Vec::with_capacity(length);
        for place in (guess.place..).take(length) {
            // A text that repeats itself at once is continued by what was just guessed.
            let token = tokens.get(place).or_else(|| draft.get(place - tokens.len()));
            draft.extend(token.copied());
        }
        draft
    }
}

/// The places behind each pair of neighbouring tokens.
#[derive(Debug, Default)]
struct Lookup {
    latest: HashMap<[u32; 2], u32>,
    /// For each place, the one before it behind the same pair; 0, behind no pair, for none.
    earlier: Vec<u32>,
}

impl Lookup {
    /// Takes in all places but the end of `tokens`, and returns the one whose run is longest.
    fn find(&mut self, tokens: &[u32]) -> Option<Guess> {
        for place in self.earlier.len()..tokens.len() {
            let pair = place.checked_sub(2).and_then(|first| pair(&tokens[first..]));
            let before = pair.and_then(|pair| self.latest.insert(pair, place as u32));
            self.earlier.push(before.unwrap_or(0));
        }
        let last = tokens.len().checked_sub(2).and_then(|first| pair(&tokens[first..]))?;
        let mut place = *self.latest.get(&last)? as usize;
        let mut best: Option<Guess> = None;
        for _ in 0..CANDIDATES {
            let run = common_suffix(&tokens[..place], tokens);
            if best.is_none_or(|best| run > best.run) {
                best = Some(Guess { at: tokens.len(), place, run });
            }
            place = self.earlier[place] as usize;
            if place == 0 || run == LONGEST_RUN {
                break;
            }
        }
        best
    }
}

/// The first two tokens.
fn pair(tokens: &[u32]) -> Option<[u32; 2]> {
    tokens.first_chunk().copied()
}

/// Tokens that two texts have in common at their ends, [`LONGEST_RUN`] at most.
fn common_suffix(a: &[u32], b: &[u32]) -> usize {
    a.iter().rev().zip(b.iter().rev()).take(LONGEST_RUN).take_while(|(a, b)| a == b).count()
}

/// How often guesses were right lately, by the length of the run behind them: 2 to 3, 4 to 7, 8 to 15, 16 to 31, longer.
#[derive(Clone, Copy, Debug, Default)]
struct Odds([Tally; Odds::CLASSES]);

/// Guesses that were right, and all, a later one counting more than an earlier one.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    right: f32,
    all: f32,
}

/// Of how many guesses' weight the belief is that there is before evidence: longer runs are as likely as those one class
/// shorter, and the shortest are never right. A guess costs nothing to score and something to compute, so evidence comes first.
const BELIEF: f32 = 2.0;
/// What each later guess leaves of the weight of an earlier one.
const FADING: f32 = 0.95;

impl Odds {
    const CLASSES: usize = 5;

    fn class(run: usize) -> usize {
        (run.max(2).ilog2() as usize - 1).min(Odds::CLASSES - 1)
    }

    /// How likely the token after a run of this length is right.
    fn of(&self, run: usize) -> f32 {
        let tallies = &self.0[..=Odds::class(run)];
        tallies.iter().fold(0.0, |believed, tally| (tally.right + BELIEF * believed) / (tally.all + BELIEF))
    }

    /// Compares a guess with what came: its first token, and each further one behind right ones.
    fn score(&mut self, guess: Guess, tokens: &[u32]) {
        for (ahead, token) in tokens[guess.at..].iter().take(MOST_DRAFT).enumerate() {
            let right = tokens[guess.place + ahead] == *token;
            let tally = &mut self.0[Odds::class(guess.run + ahead)];
            tally.right = tally.right * FADING + f32::from(u8::from(right));
            tally.all = tally.all * FADING + 1.0;
            if !right {
                break;
            }
        }
    }
}

/// What a step takes by its number of tokens, all of which want logits. Between numbers that were seen, times are taken to
/// lie on a line; beyond them, a further token is taken to cost a part of a token's share.
#[derive(Debug)]
pub(crate) struct StepTimes {
    seen: [Option<Seen>; MOST_TOKENS + 1],
    steps: u32,
}

/// What steps of one number of tokens took lately.
#[derive(Clone, Copy, Debug)]
struct Seen {
    seconds: f32,
    /// How many there were.
    count: u32,
    /// The last of them.
    step: u32,
}

impl Seen {
    /// How many steps this time is believed for without being seen again: a single one may have been disturbed, and even many
    /// are of a shorter context.
    fn remembered(self) -> u32 {
        16 << self.count.min(5)
    }
}

/// The weights of the newest of several times, where it is shorter and where it is longer than expected: what disturbs a step
/// makes it longer.
const SHORTER: f32 = 0.5;
const LONGER: f32 = 0.125;

impl Default for StepTimes {
    fn default() -> Self {
        StepTimes { seen: [None; MOST_TOKENS + 1], steps: 0 }
    }
}

impl StepTimes {
    /// Notes what a step of so many tokens took.
    pub(crate) fn note(&mut self, tokens: usize, time: Duration) {
        let seconds = time.as_secs_f32();
        // Some systems have no clock.
        if seconds == 0.0 || tokens > MOST_TOKENS {
            return;
        }
        self.steps = self.steps.wrapping_add(1);
        let seconds = self.seconds(tokens).map_or(seconds, |expected| seconds.min(2.0 * expected));
        let before = self.fresh(tokens).unwrap_or(Seen { seconds, count: 0, step: 0 });
        let weight = if seconds < before.seconds { SHORTER } else { LONGER };
        self.seen[tokens] = Some(Seen {
            seconds: before.seconds + weight * (seconds - before.seconds),
            count: before.count.saturating_add(1),
            step: self.steps,
        });
    }

    fn fresh(&self, tokens: usize) -> Option<Seen> {
        self.seen[tokens].filter(|seen| self.steps.wrapping_sub(seen.step) < seen.remembered())
    }

    /// What a step of so many tokens is expected to take; `None` where none was seen of as few.
    fn seconds(&self, tokens: usize) -> Option<f32> {
        let known = |number: usize| Some((number, self.fresh(number)?.seconds));
        let (below, least) = (1..=tokens).rev().find_map(known)?;
        let further = (tokens - below) as f32;
        let Some((above, most)) = (tokens..=MOST_TOKENS).find_map(known) else {
            return Some(least + further * least / (below + 4) as f32);
        };
        let share = if above == below { 0.0 } else { further / (above - below) as f32 };
        Some(least + share * (most - least))
    }

    /// How much of each guess to compute in a step of `tokens` others, one of each sequence. `chances` are those of
    /// [`Guesser::guess`]. Takes the likeliest tokens first, as far as each further one raises the expected rate. No step is
    /// taken to be shorter than one of fewer tokens, whatever disturbed the one that was seen.
    fn drafts(&self, tokens: usize, chances: &[Vec<f32>]) -> Vec<usize> {
        let mut lengths = vec![0; chances.len()];
        let mut best = lengths.clone();
        let Some(alone) = self.seen.get(tokens).and_then(|_| self.fresh(tokens)) else { return best };
        let mut chosen = tokens as f32;
        let mut best_rate = LEAST_GAIN * chosen / alone.seconds;
        let mut time = alone.seconds;
        for tokens in tokens + 1..=MOST_TOKENS {
            let next = chances.iter().zip(&lengths).enumerate();
            let next = next.filter_map(|(index, (chances, &length))| Some((index, *chances.get(length)?)));
            let Some((index, chance)) = next.max_by(|a, b| a.1.total_cmp(&b.1)) else { break };
            lengths[index] += 1;
            chosen += chance;
            time = self.seconds(tokens).map_or(f32::INFINITY, |seconds| seconds.max(time));
            if chosen / time > best_rate {
                best_rate = chosen / time;
                best.clone_from(&lengths);
            }
        }
        best
    }
}

impl Speculate {
    /// How much of each guess to compute in a step of `tokens` others.
    pub(crate) fn drafts(self, times: &StepTimes, tokens: usize, chances: &[Vec<f32>]) -> Vec<usize> {
        match self {
            Speculate::Off => vec![0; chances.len()],
            Speculate::Lookup => times.drafts(tokens, chances),
            Speculate::LookupAlways => chances.iter().map(Vec::len).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The longest run, and the latest place of it, by comparing everywhere.
    fn slow(tokens: &[u32]) -> Option<(usize, usize)> {
        let places = (2..tokens.len()).map(|place| (common_suffix(&tokens[..place], tokens), place));
        places.filter(|(run, _)| *run >= 2).max()
    }

    proptest! {
        #[test]
        fn the_index_finds_what_comparing_everywhere_finds(tokens in proptest::collection::vec(0u32..4, 0..30)) {
            let mut lookup = Lookup::default();
            for end in 0..=tokens.len() {
                let found = lookup.find(&tokens[..end]).map(|guess| (guess.run, guess.place));
                prop_assert_eq!(found, slow(&tokens[..end]));
            }
        }

        #[test]
        fn a_draft_is_what_followed_and_goes_on_with_itself(period in 2usize..9, length in 0usize..16) {
            let tokens: Vec<u32> = (0..3 * period as u32).map(|i| i % period as u32).collect();
            let mut guesser = Guesser::default();
            let chances = guesser.guess(&tokens, 99);
            prop_assert_eq!(&chances, &vec![0.0; MOST_DRAFT], "no guess was right so far");
            let expected: Vec<u32> = (0..length as u32).map(|i| i % period as u32).collect();
            prop_assert_eq!(guesser.draft(&tokens, length), expected);
        }
    }

    #[test]
    fn right_guesses_raise_the_odds_and_wrong_ones_lower_them() {
        let mut guesser = Guesser::default();
        let mut text = vec![1, 2, 3, 4, 5, 6, 7, 8, 1, 2];
        assert_eq!(guesser.guess(&text, 3), [0.0; 3]);
        text.extend([3, 4]);
        let chances = guesser.guess(&text, 3);
        let two_right = (FADING + 1.0) / (FADING + 1.0 + BELIEF);
        assert_eq!(chances[0], two_right, "a run of four is another class, and as likely as shorter ones");
        assert!(chances.windows(2).all(|pair| pair[1] < pair[0]), "{chances:?}");
        text.extend([9, 1, 2]);
        guesser.guess(&text, 1);
        assert_eq!(guesser.odds.of(2), two_right, "what a longer run says is not held against shorter ones");
        assert!(guesser.odds.of(4) < two_right, "what followed the run of four was another token");
        let empty = Guesser::default().guess(&[1, 2], 5);
        assert!(empty.is_empty());
    }

    fn times(seconds: &[(usize, f32)]) -> StepTimes {
        let mut times = StepTimes::default();
        for &(tokens, seconds) in seconds {
            times.note(tokens, Duration::from_secs_f32(seconds));
        }
        times
    }

    #[test]
    fn times_lie_on_lines_between_those_seen() {
        let table = times(&[(2, 1.0), (6, 3.0)]);
        let found: Vec<Option<f32>> = (1..=7).map(|tokens| table.seconds(tokens)).collect();
        assert_eq!(found[..6], [None, Some(1.0), Some(1.5), Some(2.0), Some(2.5), Some(3.0)]);
        assert!(found[6].unwrap() > 3.0);
        let mut table = times(&[(1, 1.0)]);
        for _ in 0..32 {
            table.note(4, Duration::from_secs(2));
        }
        assert_eq!(table.seconds(1), None, "it was not seen for long");
        table.note(1, Duration::from_secs(1));
        table.note(1, Duration::from_secs(1000));
        assert!(table.seconds(1).unwrap() < 1.5, "one disturbed step says little");
    }

    /// The text is said behind its first `prompt` tokens. Returns the steps it takes, and the tokens of drafts.
    fn said(text: &[u32], prompt: usize, times: &StepTimes) -> (usize, usize) {
        let (mut guesser, mut steps, mut computed, mut at) = (Guesser::default(), 0, 0, prompt);
        while at < text.len() {
            let chances = guesser.guess(&text[..at], text.len() - at - 1);
            let [length] = times.drafts(1, &[chances])[..] else { unreachable!("one sequence") };
            let draft = guesser.draft(&text[..at], length);
            let right = draft.iter().zip(&text[at..]).take_while(|(draft, token)| draft == token).count();
            (steps, computed, at) = (steps + 1, computed + length, at + 1 + right);
        }
        (steps, computed)
    }

    /// A text of few different tokens, which go on otherwise than they did wherever they repeat themselves.
    fn misleading(different: u32, tokens: usize) -> Vec<u32> {
        let (mut lookup, mut text, mut random) = (Lookup::default(), Vec::new(), fastrand::Rng::with_seed(7));
        while text.len() < tokens {
            let guessed = lookup.find(&text).map(|guess| text[guess.place]);
            let next = random.u32(..different);
            text.push(if guessed == Some(next) { (next + 1) % different } else { next });
        }
        text
    }

    #[test]
    fn guesses_that_are_all_wrong_are_not_computed() {
        let free = times(&[(1, 1.0), (2, 1.01), (16, 1.15)]);
        for different in [2, 3, 4, 8] {
            let text = misleading(different, 400);
            let mut guesser = Guesser::default();
            let guessed = (200..400).filter(|&end| !guesser.guess(&text[..end], 1).is_empty()).count();
            assert!(guessed > 150, "{guessed} guesses of {different} tokens");
            assert_eq!(said(&text, 200, &free), (200, 0), "{different} tokens");
        }
    }

    #[test]
    fn guesses_that_become_wrong_are_soon_not_computed() {
        let table = times(&[(1, 1.0), (2, 1.1), (16, 2.5)]);
        let mut text: Vec<u32> = (1000..1064).collect();
        text.extend_from_within(..);
        let prompt = text.len();
        text.extend_from_within(..64);
        let (steps, right) = said(&text, prompt, &table);
        assert!(steps < 20, "{steps} steps for 64 tokens that were said before, {right} of them drafted");
        // The odds of that remain, and nothing is right any more.
        text.extend(misleading(3, 300));
        let (_, computed) = said(&text, prompt, &table);
        assert!(computed - right <= 16, "{} tokens were drafted in vain", computed - right);
    }

    #[test]
    fn a_text_that_is_said_again_is_drafted_from_its_third_token_on() {
        let table = times(&[(1, 1.0), (2, 1.2), (16, 3.0)]);
        let mut text: Vec<u32> = (0..128).collect();
        text.extend_from_within(..);
        let (steps, computed) = said(&text, 128, &table);
        assert!(steps <= 32 && computed >= 96, "{steps} steps, {computed} tokens drafted");
    }

    #[test]
    fn a_step_that_was_disturbed_makes_no_draft_look_cheap() {
        let mut table = times(&[(2, 1.0), (1, 1.0)]);
        for _ in 0..20 {
            table.note(1, Duration::from_secs(4));
        }
        assert!(table.seconds(1) > table.seconds(2), "all the same");
        assert_eq!(table.drafts(1, &[vec![0.0, 0.0]]), [0]);
    }

    #[test]
    fn as_much_is_drafted_as_pays() {
        let sure = vec![vec![0.95f32; 6]];
        let cheap = times(&[(1, 1.0), (2, 1.1), (4, 1.3), (8, 1.7)]);
        assert_eq!(cheap.drafts(1, &sure), [6]);
        let steep = times(&[(1, 1.0), (2, 1.1), (3, 2.9), (8, 9.0)]);
        assert_eq!(steep.drafts(1, &sure), [1], "a second token costs more than it gives");
        let dear = times(&[(1, 1.0), (2, 2.0), (8, 8.0)]);
        assert_eq!(dear.drafts(1, &sure), [0]);
        assert_eq!(cheap.drafts(1, &[vec![0.05, 0.01]]), [0], "unlikely");
        let known = times(&[(2, 1.0), (8, 1.3)]);
        assert_eq!(known.drafts(2, &[vec![0.9, 0.8], vec![0.01]]), [2, 0]);
        assert_eq!(StepTimes::default().drafts(1, &sure), [0], "nothing is known");
        assert_eq!(cheap.drafts(MOST_TOKENS + 5, &sure), [0]);
    }
}
