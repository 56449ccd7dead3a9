//! What a model card says about a model: the front of README.md, in the few shapes that cards have.

use crate::write::gguf::GgufHeader;

/// The keys of the front that have a name in GGUF as one text.
const TEXTS: [(&str, &str); 5] = [
    ("model_name", "general.name"),
    ("description", "general.description"),
    ("license", "general.license"),
    ("license_name", "general.license.name"),
    ("license_link", "general.license.link"),
];

/// And as a list of texts.
const LISTS: [(&str, &str); 2] = [("tags", "general.tags"), ("language", "general.languages")];

/// Adds what the card says.
pub(super) fn put(header: &mut GgufHeader, card: &str) {
    let front = front(card);
    for (name, key) in TEXTS {
        if let [only] = values(&front, name).as_slice() {
            header.string(key, only);
        }
    }
    for (name, key) in LISTS {
        let list = values(&front, name);
        if !list.is_empty() {
            header.strings(key, &list);
        }
    }
}

/// The name on the card.
pub(super) fn has_name(card: &str) -> bool {
    values(&front(card), "model_name").len() == 1
}

/// The lines between the two lines of dashes that a card begins with.
fn front(card: &str) -> Vec<&str> {
    let mut lines = card.lines();
    if lines.next().map(str::trim_end) != Some("---") {
        return Vec::new();
    }
    let front: Vec<_> = lines.by_ref().take_while(|line| line.trim_end() != "---").collect();
    // Without a second line of dashes the text was no front.
    if card.lines().skip(1).any(|line| line.trim_end() == "---") { front } else { Vec::new() }
}

/// The values of a key: one behind the colon, several in brackets, or one on each of the lines below.
fn values<'a>(front: &[&'a str], key: &str) -> Vec<&'a str> {
    let behind = |line: &'a str| line.strip_prefix(key)?.strip_prefix(':').map(str::trim);
    let Some((at, value)) = front.iter().enumerate().find_map(|(at, &line)| Some((at, behind(line)?))) else {
        return Vec::new();
    };
    let listed: Vec<&str> = if let Some(inner) = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        inner.split(',').collect()
    } else if value.is_empty() {
        front[at + 1..].iter().map_while(|line| line.trim_start().strip_prefix("- ")).collect()
    } else {
        vec![value]
    };
    listed.into_iter().map(|value| value.trim().trim_matches(['"', '\''])).filter(|value| !value.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: &str = "---\nlanguage: en\nlicense: \"apache-2.0\"\nmodel_name: m\ntags: [bitnet, ternary]\nbase_model:\n- a/b\n- 'c/d'\n---\n# m\nlicense: none\n";

    #[test]
    fn the_front_of_a_card_is_read_and_the_text_is_not() {
        let front = front(CARD);
        assert_eq!(values(&front, "license"), ["apache-2.0"]);
        assert_eq!(values(&front, "language"), ["en"]);
        assert_eq!(values(&front, "tags"), ["bitnet", "ternary"]);
        assert_eq!(values(&front, "base_model"), ["a/b", "c/d"]);
        assert_eq!(values(&front, "license_name"), [""; 0]);
        assert!(has_name(CARD));
    }

    #[test]
    fn a_card_without_a_front_says_nothing() {
        for card in ["", "# m\nlicense: mit\n", "---\nlicense: mit\n"] {
            assert_eq!(front(card), [""; 0], "{card:?}");
        }
    }
}
