//! Vocabularies as ranks: lines of base64 and a number, the form tiktoken and Llama 3 publish theirs in.

use crate::error::FormatError;
use crate::tokenizer::byte_to_char;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::HashMap;

/// The ordinary tokens of a rank file, id = rank: pieces in the byte-level alphabet, and the merges that lead to them.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranks {
    /// Token texts in the byte-level alphabet.
    pub pieces: Vec<String>,
    /// "left right", in the order they apply.
    pub merges: Vec<String>,
}

/// Whether a file looks like ranks rather than JSON.
pub fn is_ranks(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    parse_line(line).is_some()
}

/// Reads a rank file and rebuilds the merges.
///
/// # Errors
///
/// [`FormatError::Invalid`] naming the first line that is no token and rank, or whose rank is not its place, and
/// [`FormatError::Missing`] for a byte without a token; [`FormatError::Duplicate`] for a token that occurs twice.
pub fn parse(bytes: &[u8]) -> Result<Ranks, FormatError> {
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    let mut ranks = HashMap::new();
    let lines = bytes.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end).enumerate();
    for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
        let (token, rank) = parse_line(line).filter(|(_, rank)| *rank == tokens.len()).ok_or_else(|| {
            let expected = format!("a token in base64 and its rank {}", tokens.len());
            FormatError::invalid(format!("line {} of the ranks", number + 1), expected, String::from_utf8_lossy(line))
        })?;
        if ranks.insert(token.clone(), rank).is_some() {
            return Err(FormatError::Duplicate { what: "token", name: String::from_utf8_lossy(&token).into_owned() });
        }
        tokens.push(token);
    }
    if let Some(byte) = (0..=255u8).find(|&byte| !ranks.contains_key([byte].as_slice())) {
        return Err(FormatError::missing(format!("the token of byte {byte:#04x} in the ranks")));
    }
    let pieces: Vec<String> =
        tokens.iter().map(|token| token.iter().map(|&byte| byte_to_char(byte)).collect()).collect();
    let merges = merges(&tokens, |part| ranks.get(part).copied())
        .map(|(left, right)| format!("{} {}", pieces[left], pieces[right]))
        .collect();
    Ok(Ranks { pieces, merges })
}

/// For each token in order, every split into two tokens, ordered by the tokens of its parts.
///
/// This gives back exactly the merges that Llama 3 publishes.
fn merges<'a>(
    tokens: &'a [Vec<u8>],
    find: impl Fn(&[u8]) -> Option<usize> + 'a,
) -> impl Iterator<Item = (usize, usize)> + 'a {
    tokens.iter().flat_map(move |token| {
        let split = |at| Some((find(token.get(..at)?)?, find(token.get(at..)?)?));
        let mut pairs: Vec<(usize, usize)> = (1..token.len()).filter_map(split).collect();
        pairs.sort_unstable();
        pairs
    })
}

fn parse_line(line: &[u8]) -> Option<(Vec<u8>, usize)> {
    let space = line.iter().position(|&byte| byte == b' ')?;
    let rank = std::str::from_utf8(&line[space + 1..]).ok()?.trim_ascii_end().parse().ok()?;
    let token = STANDARD.decode(&line[..space]).ok()?;
    (!token.is_empty()).then_some((token, rank))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ranks of the 256 bytes in order, followed by `tokens`.
    fn ranks(tokens: &[&str]) -> String {
        let all = (0..=255u8).map(|byte| vec![byte]).chain(tokens.iter().map(|token| token.as_bytes().to_vec()));
        all.enumerate().map(|(rank, token)| format!("{} {rank}\n", STANDARD.encode(&token))).collect()
    }

    #[test]
    fn merges_are_rebuilt_in_order() {
        let ranks = parse(ranks(&["ab", "bc", "abc", " a"]).as_bytes()).unwrap();
        assert_eq!(ranks.pieces[97..99], ["a", "b"]);
        assert_eq!(ranks.pieces[256..], ["ab", "bc", "abc", "Ġa"]);
        assert_eq!(ranks.merges, ["a b", "b c", "a bc", "ab c", "Ġ a"]);
    }

    #[test]
    fn what_is_no_rank_file_is_refused_with_its_line() {
        let good = ranks(&["ab"]);
        assert!(is_ranks(good.as_bytes()) && !is_ranks(b"{\"model\": 1}") && !is_ranks(b""));
        let cases = [
            (format!("{good}YWI= 257\n"), "token \"ab\" occurs twice"),
            (format!("{good}YWJj 300\n"), "line 258 of the ranks: expected a token in base64 and its rank 257"),
            (format!("{good}!!!! 257\n"), "line 258"),
            (good.replacen("AA== 0\n", "", 1), "line 1"),
            (String::new(), "the token of byte 0x00 in the ranks is missing"),
        ];
        for (text, message) in cases {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
