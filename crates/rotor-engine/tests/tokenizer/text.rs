//! Mixed text from a seed: prose, code, emoji, several scripts, control characters, long runs of spaces.
//!
//! Every character comes from one of these lists, so that the scanners in `reference.rs` can know its class without
//! Unicode tables.

pub(crate) const LETTERS: &str = "etaoinshrdlucmfwypvbgkqjxzEТAOINßéñçüøİıſπΩжЩяשלוםعمرحбあアヴ한글中文字漢ªʰ";
pub(crate) const DIGITS: &str = "0123456789٣٤५７²½Ⅷ㊿";
pub(crate) const PUNCTUATION: &str = "!\"#%&'()*,-./:;?@[\\]_{}¿«»—…„。、「」٪‽§";
pub(crate) const SYMBOLS: &str = "$+<=>^`|~¢£¨°×€→∑♥🦙😀👍🏽🇫";
/// Neither letter nor number nor space: combining marks, joiners, control characters.
pub(crate) const OTHERS: &str = "\u{301}\u{64e}\u{93e}\u{200d}\u{fe0f}\u{200b}\0\u{1}\u{7f}\u{1b}\u{ad}\u{e000}";
pub(crate) const SPACES: &str = " \t\u{a0}\u{3000}\u{2028}\u{85}\u{b}";

const WORDS: &str = "the of and to in is that it was for on are as with his they at be this from have or by one had not \
    but what all were when we there can an your which their said if do will each about how up out them then she many \
    some so these would other into has more her two like him see time could no make than first been its who now people \
    my made over did down only way find use may water long little very after words called just where most know I'm \
    don't they'll we've IT'S can't he'd naïve café Việt fn let mut return self.x == 0x1F";

pub(crate) struct Generator {
    random: fastrand::Rng,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed) }
    }

    pub(crate) fn line(&mut self) -> String {
        match self.random.u8(..8) {
            0 | 1 => self.prose(),
            2 => self.code(),
            3 => self.from(&[LETTERS, " ", LETTERS, LETTERS]),
            4 => self.from(&[SYMBOLS, OTHERS, " ", LETTERS]),
            5 => self.from(&[SPACES, " ", "\n\r", "x1."]),
            6 => self.from(&[DIGITS, DIGITS, " ", PUNCTUATION]),
            _ => self.from(&[LETTERS, DIGITS, PUNCTUATION, SYMBOLS, OTHERS, SPACES, "\n\r", " ", "'sStTrRvVmMlLdD"]),
        }
    }

    fn prose(&mut self) -> String {
        let words: Vec<&str> = WORDS.split_whitespace().collect();
        let mut line = String::new();
        for _ in 0..self.random.usize(1..20) {
            line.push_str(words[self.random.usize(..words.len())]);
            line.push_str([" ", " ", " ", ", ", ". ", "\n", "  "][self.random.usize(..7)]);
        }
        line
    }

    fn code(&mut self) -> String {
        let mut line = " ".repeat(self.random.usize(..40));
        for _ in 0..self.random.usize(1..8) {
            line.push_str(
                ["if (", "x_1", " += ", "foo.bar()", ");\n", "\t\t", "// ", "\"a\\n\"", "{}", "12345", "\r\n"]
                    [self.random.usize(..11)],
            );
        }
        line
    }

    fn from(&mut self, sets: &[&str]) -> String {
        let sets: Vec<Vec<char>> = sets.iter().map(|set| set.chars().collect()).collect();
        let mut line = String::new();
        for _ in 0..self.random.usize(1..40) {
            let set = &sets[self.random.usize(..sets.len())];
            let repeats = if self.random.u8(..10) == 0 { self.random.usize(1..30) } else { 1 };
            let character = set[self.random.usize(..set.len())];
            line.extend(std::iter::repeat_n(character, repeats));
        }
        line
    }
}
