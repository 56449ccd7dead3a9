//! Python's `datetime.now().strftime` in the C locale, in UTC, for templates that print today's date.
//!
//! Fields and flags are glibc's, which CPython hands its formats to on Linux, where models are trained. A field that glibc
//! does not know would reach the prompt as it is written; here it is an error.

use minijinja::{Error, ErrorKind};

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The current time in a format of strftime.
pub(super) fn now(format: &str) -> Result<String, Error> {
    at(rotor_kernels::clock::unix_seconds(), format)
}

/// A time, in seconds since 1970, in a format of strftime.
pub(super) fn at(seconds: u64, format: &str) -> Result<String, Error> {
    let time = Time::new(seconds);
    let mut text = String::new();
    let mut characters = format.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let flag = characters.next_if(|flag| matches!(flag, '-' | '_' | '0' | '^' | '#'));
        match characters.next().and_then(|field| time.field(field, flag)) {
            Some(field) => text.push_str(&field),
            None => return Err(unknown(format)),
        }
    }
    Ok(text)
}

fn unknown(format: &str) -> Error {
    let known = "a, A, b, B, c, C, d, D, e, F, f, g, G, h, H, I, j, k, l, m, M, n, p, P, r, R, s, S, t, T, u, U, V, w, W, x, X, y, Y, z, Z, %";
    let text = format!("strftime_now({format:?}) has a field that is not known; the fields after '%' are {known}");
    Error::new(ErrorKind::InvalidOperation, text)
}

/// A moment, taken apart.
struct Time {
    seconds: u64,
    year: u64,
    /// From 1.
    month: u64,
    /// Of the month, from 1.
    day: u64,
    /// From 0, January 1st.
    day_of_year: u64,
    /// From 0, Sunday.
    weekday: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Time {
    fn new(seconds: u64) -> Self {
        let (days, of_day) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = date(days);
        let day_of_year = days - days_before(year);
        let weekday = (days + 4) % 7;
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        Time { seconds, year, month, day, day_of_year, weekday, hour, minute, second }
    }

    /// The text of one field; `None` where there is no such field.
    fn field(&self, field: char, flag: Option<char>) -> Option<String> {
        let hour_of_12 = (self.hour + 11) % 12 + 1;
        let number = |value: u64, width: usize, pad: char| Some(padded(value, width, pad, flag));
        let word = |text: &str| Some(if flag == Some('^') { text.to_uppercase() } else { text.to_owned() });
        let combined = |format: &str| at(self.seconds, format).ok().map(|text| cased(text, flag));
        match field {
            'Y' => number(self.year, 1, '0'),
            'C' => number(self.year / 100, 2, '0'),
            'y' => number(self.year % 100, 2, '0'),
            'G' => number(self.iso_week().0, 1, '0'),
            'g' => number(self.iso_week().0 % 100, 2, '0'),
            'm' => number(self.month, 2, '0'),
            'd' => number(self.day, 2, '0'),
            'e' => number(self.day, 2, ' '),
            'j' => number(self.day_of_year + 1, 3, '0'),
            'H' => number(self.hour, 2, '0'),
            'k' => number(self.hour, 2, ' '),
            'I' => number(hour_of_12, 2, '0'),
            'l' => number(hour_of_12, 2, ' '),
            'M' => number(self.minute, 2, '0'),
            'S' => number(self.second, 2, '0'),
            // Python fills this one in itself, before the C library sees the format.
            'f' if flag.is_none() => Some("000000".to_owned()),
            's' => number(self.seconds, 1, '0'),
            'u' => number((self.weekday + 6) % 7 + 1, 1, '0'),
            'w' => number(self.weekday, 1, '0'),
            'U' => number((self.day_of_year + 7 - self.weekday) / 7, 2, '0'),
            'W' => number((self.day_of_year + 7 - (self.weekday + 6) % 7) / 7, 2, '0'),
            'V' => number(self.iso_week().1, 2, '0'),
            'a' => word(&DAYS[self.weekday as usize][..3]).map(|text| cased(text, flag)),
            'A' => word(DAYS[self.weekday as usize]).map(|text| cased(text, flag)),
            'b' | 'h' => word(&MONTHS[self.month as usize - 1][..3]).map(|text| cased(text, flag)),
            'B' => word(MONTHS[self.month as usize - 1]).map(|text| cased(text, flag)),
            'p' if flag == Some('#') => Some(self.half().to_lowercase()),
            'p' => word(self.half()),
            'P' => Some(self.half().to_lowercase()),
            'c' => combined("%a %b %e %H:%M:%S %Y"),
            'D' | 'x' => combined("%m/%d/%y"),
            'F' => combined("%Y-%m-%d"),
            'r' => combined("%I:%M:%S %p"),
            'R' => combined("%H:%M"),
            'T' | 'X' => combined("%H:%M:%S"),
            // A time without a time zone has neither an offset nor a name.
            'z' | 'Z' => Some(String::new()),
            'n' => Some("\n".to_owned()),
            't' => Some("\t".to_owned()),
            '%' => Some("%".to_owned()),
            _ => None,
        }
    }

    fn half(&self) -> &'static str {
        if self.hour < 12 { "AM" } else { "PM" }
    }

    /// Year and number of the ISO 8601 week: weeks begin on Monday, and the first one of a year has its first Thursday.
    fn iso_week(&self) -> (u64, u64) {
        let weekday = (self.weekday + 6) % 7;
        // The week's Thursday, counted from 7 days before this year begins.
        let thursday = self.day_of_year + 7 + 3 - weekday;
        let length = days_before(self.year + 1) - days_before(self.year);
        if thursday < 7 {
            let before = days_before(self.year) - days_before(self.year - 1);
            (self.year - 1, (before + thursday - 7) / 7 + 1)
        } else if thursday - 7 >= length {
            (self.year + 1, 1)
        } else {
            (self.year, (thursday - 7) / 7 + 1)
        }
    }
}

/// A number of at least `width` characters; the flag may ask for another padding, or none.
fn padded(value: u64, width: usize, pad: char, flag: Option<char>) -> String {
    let pad = match flag {
        Some('-') => return value.to_string(),
        Some('_') => ' ',
        Some('0') => '0',
        _ => pad,
    };
    if pad == ' ' { format!("{value:width$}") } else { format!("{value:0width$}") }
}

/// `^` and, for names, `#` ask for capitals.
fn cased(text: String, flag: Option<char>) -> String {
    if matches!(flag, Some('^' | '#')) { text.to_uppercase() } else { text }
}

/// Days from 1970 to the first of January of a year from 1970 on.
fn days_before(year: u64) -> u64 {
    let passed = year.saturating_sub(1);
    // 719,162 days lie before 1970.
    (passed * 365 + passed / 4 - passed / 100 + passed / 400).saturating_sub(719_162)
}

/// Year, month and day of a number of days since 1970 (the civil calendar, counted in 400-year eras from March).
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}
