//! Which files of a repository make up the model that is meant.
//!
//! A repository often has one model in several encodings. Ternary ones hold the weights as they were trained and are the
//! smallest, so they go first; among them the order is that of how exactly the file says what it is. A file that the
//! machine's memory cannot hold goes behind those that it can. What cannot be told apart is left to the person.

use crate::error::HubError;
use crate::units;

/// A file to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The name in the repository.
    pub name: String,
    /// Bytes, where known.
    pub size: Option<u64>,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The files, the one to open first. For a Hugging Face folder: all it needs.
    pub files: Vec<Candidate>,
    /// Whether the folder around the files is what is opened.
    pub folder: bool,
    /// The reason, as a sentence's end.
    pub why: String,
}

/// How a file's name tells that it has ternary weights, in the order of preference; every spelling of a tag in one line.
///
/// I2_S holds one scale for a tensor, as BitNet is trained. PQ2_0 names groups of 128, `Q2_0_g64` groups of 64; a bare Q2_0
/// has meant both, and only the file tells. TQ2_0 and TQ1_0 round their scales to f16.
const TERNARY: [&[&str]; 7] = [
    &["I2_S"],
    &["PQ2_0"],
    &["Q2_0_G64", "Q2_G64"],
    &["Q2_0"],
    &["TQ2_0"],
    &["TQ1_0"],
    &["IQ2_BN", "IQ2_BN_R4", "IQ1_BN"],
];

/// Beginnings and parts of names of GGUF files that are no language models.
const OTHER_KINDS: [&str; 6] = ["mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-"];

/// Tags of encodings that are not ternary.
const ORDINARY: [&str; 4] = ["F16", "BF16", "F32", "FP16"];

/// What may follow a tag in a file's name.
const WORD_ENDS: [char; 3] = ['.', '-', '_'];

/// Files of a Hugging Face folder that rotor reads besides the weights.
const FOLDER_FILES: [&str; 11] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

/// What programs that load a model ask its repository for and this one does not have: for a folder each file that rotor would
/// read, for GGUF files the `config.json` that transformers looks for.
pub(crate) fn absent(choice: &Choice, has: impl Fn(&str) -> bool) -> impl Iterator<Item = &'static str> {
    let asked = if choice.folder { FOLDER_FILES.as_slice() } else { &FOLDER_FILES[..1] };
    asked.iter().copied().filter(move |name| !has(name))
}

/// How well a model suits; lower is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// The index of its tag in [`TERNARY`].
    Ternary(usize),
    /// A GGUF file without a known tag.
    Untagged,
    /// A Hugging Face folder, or a single safetensors file.
    Safetensors,
    /// An encoding that is not ternary.
    Ordinary,
}

/// A model among the files: one file, all parts of a split one, or a folder.
#[derive(Clone, Debug)]
struct Model {
    files: Vec<Candidate>,
    rank: Rank,
    folder: bool,
}

impl Model {
    fn name(&self) -> &str {
        if self.folder { "safetensors" } else { &self.files[0].name }
    }

    fn size(&self) -> Option<u64> {
        self.files.iter().map(|file| file.size).sum()
    }

    fn shown(&self) -> String {
        match self.size() {
            Some(size) => format!("{} ({})", self.name(), units::bytes(size)),
            None => self.name().to_owned(),
        }
    }
}

/// Chooses a model among a repository's files. `what` is a file's name or a tag, `memory` the bytes that the machine has.
///
/// # Errors
///
/// [`HubError::NoModel`] where nothing fits, [`HubError::Ambiguous`] where several do equally well.
pub(crate) fn choose(
    repo: &str,
    files: &[Candidate],
    what: Option<&str>,
    memory: Option<u64>,
) -> Result<Choice, HubError> {
    let models = models(files);
    match what {
        Some(what) => named(repo, files, &models, what),
        None => best(repo, files, models, memory),
    }
}

/// What a person can name in a repository: one name for each model in it.
pub(crate) fn names(files: &[Candidate]) -> Vec<(String, Choice)> {
    let choice = |model: Model| (model.name().to_owned(), chosen(&model, String::new()));
    models(files).into_iter().map(choice).collect()
}

fn chosen(model: &Model, why: String) -> Choice {
    Choice { files: model.files.clone(), folder: model.folder, why }
}

fn named(repo: &str, files: &[Candidate], models: &[Model], what: &str) -> Result<Choice, HubError> {
    let has = |model: &&Model| !model.folder && model.files.iter().any(|file| file.name == what);
    if let Some(model) = models.iter().find(has) {
        return Ok(chosen(model, "as named".into()));
    }
    if what.eq_ignore_ascii_case("safetensors")
        && let Some(model) = models.iter().find(|model| model.rank == Rank::Safetensors)
    {
        return Ok(chosen(model, "as named".into()));
    }
    // Any other file of the repository may be wanted for its own sake.
    if let Some(file) = files.iter().find(|file| file.name == what) {
        return Ok(Choice { files: vec![file.clone()], folder: false, why: "as named".into() });
    }
    let tagged = |ends: &[char]| -> Vec<&Model> {
        let fits = |model: &&Model| !model.folder && has_tag(&model.files[0].name, what, ends);
        models.iter().filter(fits).collect()
    };
    // Q2_0 means a file that says Q2_0 rather than one that says Q2_0_g64, where there are both.
    let exact = tagged(&['.', '-']);
    match (if exact.is_empty() { tagged(&WORD_ENDS) } else { exact }).as_slice() {
        [] => Err(HubError::NoModel {
            repo: repo.into(),
            what: format!("file {what:?}, and none with that tag in its name"),
            found: found(models.iter().map(Model::shown)),
        }),
        [model] => Ok(chosen(model, format!("the one with {what} in its name"))),
        several => Err(ambiguous(repo, several.iter().copied())),
    }
}

fn best(repo: &str, files: &[Candidate], models: Vec<Model>, memory: Option<u64>) -> Result<Choice, HubError> {
    let fits = |model: &Model| model.size().zip(memory).is_none_or(|(size, memory)| size < memory);
    let key = |model: &Model| (!fits(model), model.rank);
    let Some(first) = models.iter().min_by_key(|model| key(model)) else {
        let pickles = files.iter().any(|file| file.name.ends_with(".bin") || file.name.ends_with(".pt"));
        let hint = if pickles { ": its weights are PyTorch files, which rotor does not open" } else { "" };
        let what = "model in a .gguf or .safetensors file".to_owned();
        return Err(HubError::NoModel { repo: repo.into(), what, found: hint.into() });
    };
    let equal: Vec<&Model> = models.iter().filter(|model| key(model) == key(first)).collect();
    if equal.len() > 1 {
        return Err(ambiguous(repo, models.iter().filter(|model| model.rank == first.rank || !fits(model))));
    }
    Ok(chosen(first, reason(first, &models, &fits)))
}

fn reason(first: &Model, models: &[Model], fits: &dyn Fn(&Model) -> bool) -> String {
    let others: Vec<&Model> = models.iter().filter(|model| model.name() != first.name()).collect();
    let mut why = match first.rank {
        _ if others.is_empty() => "the only model there".to_owned(),
        Rank::Ternary(index) => format!("{}: ternary weights as they were trained", TERNARY[index][0]),
        Rank::Untagged => "a GGUF file, whose weights the file itself tells".to_owned(),
        Rank::Safetensors => "the published checkpoint".to_owned(),
        Rank::Ordinary => "the only one that fits".to_owned(),
    };
    if !others.is_empty() {
        let (big, rest): (Vec<&Model>, Vec<&Model>) = others.into_iter().partition(|model| !fits(model) && fits(first));
        let list = |models: &[&Model]| models.iter().take(6).map(|model| model.shown()).collect::<Vec<_>>().join(", ");
        if !rest.is_empty() {
            why.push_str(&format!("; left out: {}", list(&rest)));
        }
        if !big.is_empty() {
            why.push_str(&format!("; larger than this machine's memory: {}", list(&big)));
        }
    }
    why
}

fn ambiguous<'a>(repo: &str, models: impl Iterator<Item = &'a Model>) -> HubError {
    let names: Vec<String> = models.take(20).map(|model| format!("{repo}:{}", model.shown())).collect();
    HubError::Ambiguous { repo: repo.into(), candidates: names.join(", ") }
}

fn found(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.take(20).collect();
    if names.is_empty() { String::new() } else { format!(": it has {}", names.join(", ")) }
}

/// Every model among the files.
fn models(files: &[Candidate]) -> Vec<Model> {
    let mut models: Vec<Model> = Vec::new();
    for file in files.iter().filter(|file| is_gguf_model(&file.name)) {
        match split(&file.name) {
            Some((_, 1, of)) => {
                let mut parts: Vec<Candidate> = files
                    .iter()
                    .filter(|other| {
                        split(&other.name).is_some_and(|(stem, _, count)| count == of && file.name.starts_with(stem))
                    })
                    .cloned()
                    .collect();
                parts.sort_by(|a, b| a.name.cmp(&b.name));
                models.push(Model { rank: rank(&file.name), files: parts, folder: false });
            }
            // A later part belongs to the first.
            Some(_) => {}
            None => models.push(Model { rank: rank(&file.name), files: vec![file.clone()], folder: false }),
        }
    }
    models.extend(safetensors(files));
    models
}

/// The Hugging Face folder that the repository is, or safetensors files that are whole models by themselves.
fn safetensors(files: &[Candidate]) -> Vec<Model> {
    let at_root = |file: &&Candidate| !file.name.contains('/');
    let weights: Vec<&Candidate> =
        files.iter().filter(at_root).filter(|file| file.name.ends_with(".safetensors")).collect();
    let Some(config) = files.iter().find(|file| file.name == "config.json") else {
        let alone = |file: &&Candidate| Model { files: vec![(*file).clone()], rank: Rank::Safetensors, folder: false };
        return weights.iter().map(alone).collect();
    };
    let whole: Vec<&Candidate> = match weights.iter().find(|file| file.name == "model.safetensors") {
        Some(file) => vec![file],
        None => {
            let parts: Vec<&Candidate> =
                weights.iter().copied().filter(|file| file.name.starts_with("model-")).collect();
            if parts.is_empty() { weights } else { parts }
        }
    };
    if whole.is_empty() {
        return Vec::new();
    }
    let others = FOLDER_FILES.iter().skip(1).chain(&["model.safetensors.index.json"]);
    let others = others.filter_map(|name| files.iter().find(|file| file.name == *name));
    let files = [config].into_iter().chain(others).chain(whole).cloned().collect();
    vec![Model { files, rank: Rank::Safetensors, folder: true }]
}

fn is_gguf_model(name: &str) -> bool {
    let base = base_name(name).to_ascii_lowercase();
    base.ends_with(".gguf") && !OTHER_KINDS.iter().any(|kind| base.contains(kind))
}

fn base_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn rank(name: &str) -> Rank {
    // A tag that contains another comes first: PQ2_0 has no Q2_0 as a word, and Q2_0_g64 has.
    let index = TERNARY.iter().position(|tags| tags.iter().any(|tag| has_tag(name, tag, &WORD_ENDS)));
    match index {
        Some(index) => Rank::Ternary(index),
        None if ORDINARY.iter().any(|tag| has_tag(name, tag, &WORD_ENDS)) || has_quantised_tag(name) => Rank::Ordinary,
        None => Rank::Untagged,
    }
}

/// Whether a file's name has `tag` as a word that ends before one of `ends`, in either case.
fn has_tag(name: &str, tag: &str, ends: &[char]) -> bool {
    let (base, tag) = (base_name(name).to_ascii_uppercase(), tag.to_ascii_uppercase());
    base.match_indices(&tag).any(|(at, _)| {
        let begins = base[..at].chars().next_back().is_none_or(|c| !c.is_ascii_alphanumeric());
        begins && base[at + tag.len()..].chars().next().is_none_or(|c| ends.contains(&c))
    })
}

/// Whether a name has one of ggml's ordinary quantisations as a word: `Q4_K_M`, `IQ3_XS`, `Q8_0`, ...
fn has_quantised_tag(name: &str) -> bool {
    let base = base_name(name).to_ascii_uppercase();
    base.split(['-', '.']).any(|word| {
        let digits = word.strip_prefix("IQ").or_else(|| word.strip_prefix('Q'));
        digits.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()) && rest.contains('_'))
    })
}

/// The stem, number and count of a split file's part: `NAME-00001-of-00003.gguf`.
pub(crate) fn split(name: &str) -> Option<(&str, u32, u32)> {
    let stem = name.strip_suffix(".gguf")?;
    let (stem, count) = stem.rsplit_once("-of-")?;
    let (stem, number) = stem.rsplit_once('-')?;
    let five = |text: &str| (text.len() == 5).then(|| text.parse().ok()).flatten();
    Some((stem, five(number)?, five(count)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<Candidate> {
        names.iter().map(|name| Candidate { name: (*name).into(), size: Some(1000) }).collect()
    }

    fn chosen(names: &[&str], what: Option<&str>) -> Result<Vec<String>, String> {
        let choice = choose("a/b", &files(names), what, None).map_err(|error| error.to_string())?;
        Ok(choice.files.into_iter().map(|file| file.name).collect())
    }

    #[test]
    fn the_best_ternary_file_is_chosen() {
        let cases: [(&[&str], &str); 8] = [
            (&["README.md", "ggml-model-i2_s.gguf"], "ggml-model-i2_s.gguf"),
            (&["m-F16.gguf", "m-TQ1_0.gguf", "m-TQ2_0.gguf"], "m-TQ2_0.gguf"),
            (&["B-F16.gguf", "B-Q2_0.gguf", "B-Q2_0_g64.gguf", "B-PQ2_0.gguf"], "B-PQ2_0.gguf"),
            (&["B-Q2_0.gguf", "B-Q2_g64.gguf"], "B-Q2_g64.gguf"),
            (&["B-Q2_0.gguf", "B-Q4_K_M.gguf"], "B-Q2_0.gguf"),
            (&["m.gguf", "m-Q8_0.gguf"], "m.gguf"),
            (&["m-bf16.gguf", "mmproj-m-Q2_0.gguf", "imatrix.gguf"], "m-bf16.gguf"),
            (
                &["bitnet-embeddings-0.6b-bf16-i2_s.gguf", "bitnet-embeddings-0.6b-bf16.gguf"],
                "bitnet-embeddings-0.6b-bf16-i2_s.gguf",
            ),
        ];
        for (names, expected) in cases {
            assert_eq!(chosen(names, None), Ok(vec![expected.to_owned()]), "{names:?}");
        }
    }

    #[test]
    fn what_cannot_be_told_apart_is_listed() {
        let error = chosen(&["x-1B-i2_s.gguf", "x-3B-i2_s.gguf", "x.gguf"], None).unwrap_err();
        assert!(error.ends_with("a/b:x-1B-i2_s.gguf (1.00 kB), a/b:x-3B-i2_s.gguf (1.00 kB)"), "{error}");
        let error = chosen(&["m-Q4_K_M.gguf", "m-Q8_0.gguf"], None).unwrap_err();
        assert!(error.contains("Q4_K_M") && error.contains("Q8_0"), "{error}");
        assert!(chosen(&["pytorch_model.bin", "config.json"], None).unwrap_err().contains("PyTorch"));
        assert!(chosen(&["README.md"], None).unwrap_err().starts_with("a/b has no model"));
    }

    #[test]
    fn a_file_or_a_tag_may_be_named() {
        let names = ["m-F16.gguf", "m-Q2_0.gguf", "m-Q2_0_g64.gguf", "sub/m-TQ1_0.gguf", "LICENSE"];
        assert_eq!(chosen(&names, Some("f16")), Ok(vec!["m-F16.gguf".into()]));
        assert_eq!(chosen(&names, Some("sub/m-TQ1_0.gguf")), Ok(vec!["sub/m-TQ1_0.gguf".into()]));
        assert_eq!(chosen(&names, Some("LICENSE")), Ok(vec!["LICENSE".into()]));
        assert_eq!(chosen(&names, Some("q2_0")), Ok(vec!["m-Q2_0.gguf".into()]));
        assert_eq!(chosen(&names, Some("Q2_0_g64")), Ok(vec!["m-Q2_0_g64.gguf".into()]));
        assert!(chosen(&["a-Q2_0.gguf", "b-Q2_0.gguf"], Some("Q2_0")).unwrap_err().contains("several"));
        let error = chosen(&names, Some("Q5_K")).unwrap_err();
        assert!(error.contains("\"Q5_K\"") && error.contains("m-F16.gguf"), "{error}");
    }

    #[test]
    fn parts_of_a_split_file_go_together() {
        let names = ["m-i2_s-00002-of-00002.gguf", "m-i2_s-00001-of-00002.gguf", "o-i2_s-00001-of-00003.txt"];
        let both = vec!["m-i2_s-00001-of-00002.gguf".to_owned(), "m-i2_s-00002-of-00002.gguf".to_owned()];
        assert_eq!(chosen(&names, None), Ok(both.clone()));
        assert_eq!(chosen(&names, Some("m-i2_s-00002-of-00002.gguf")), Ok(both));
    }

    #[test]
    fn a_checkpoint_comes_with_its_tokenizer() {
        let names = [
            "README.md",
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
            "consolidated.safetensors",
            "sub/x.safetensors",
        ];
        let choice = choose("a/b", &files(&names), None, None).unwrap();
        assert!(choice.folder);
        let names: Vec<&str> = choice.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "config.json",
                "tokenizer.json",
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors"
            ]
        );
        assert_eq!(chosen(&["planes.safetensors"], None), Ok(vec!["planes.safetensors".into()]));
    }

    #[test]
    fn a_model_has_to_fit_into_memory_where_one_does() {
        let sized = |name: &str, size| Candidate { name: name.into(), size: Some(size) };
        let both = [sized("m-8B-i2_s.gguf", 3_000), sized("m-8B-tq1_0.gguf", 2_000)];
        let name = |memory| choose("a/b", &both, None, Some(memory)).unwrap().files[0].name.clone();
        assert_eq!(name(4_000), "m-8B-i2_s.gguf");
        assert_eq!(name(2_500), "m-8B-tq1_0.gguf");
        assert_eq!(name(100), "m-8B-i2_s.gguf");
        let why = choose("a/b", &both, None, Some(2_500)).unwrap().why;
        assert!(why.contains("larger than this machine's memory: m-8B-i2_s.gguf (3.00 kB)"), "{why}");
    }
}
