//! Messages to the prompt a model was trained on, by the Jinja template it comes with.
//!
//! A template comes from a file and may be hostile: its size, its running time and its nesting are limited, and it sees
//! nothing but the messages. What people wrote is protected when the rendered text becomes token ids: control tokens
//! count only where the template itself wrote them.

use crate::tokenizer::{Tokenizer, TokenizerError};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Longest template, in bytes. The longest published ones have about 20 kB.
const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// Steps a template may take; minijinja also charges for the text it handles.
const FUEL: u64 = 10_000_000;
/// Nesting of macros, includes and blocks.
const RECURSION: usize = 64;

/// The chat format of BitNet-b1.58-2B-4T.
pub(crate) const BITNET: &str = concat!(
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}",
    "{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}",
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
);

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// "system", "user" or "assistant", or whatever else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message of a role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// Why a conversation cannot become a prompt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The template is larger than any honest one.
    #[error("the chat template is {found} bytes long; at most {MAX_TEMPLATE_BYTES} are taken")]
    TemplateTooLong {
        /// Its length.
        found: usize,
    },
    /// The template is not valid Jinja.
    #[error("the chat template cannot be read: {0}")]
    Template(#[source] Error),
    /// The template refuses these messages, or does not come to an end.
    #[error("the chat template fails on these messages: {0}")]
    Render(#[source] Error),
    /// A role that could smuggle text into the prompt.
    #[error("a message's role must be 1 to 64 letters, digits, '_' or '-', not {found:?}")]
    Role {
        /// The role.
        found: String,
    },
    /// The template changes the messages' text, so control tokens in it cannot be told from the template's own.
    #[error("message {index} contains a control token of the model, and the chat template rewrites the text around it")]
    ControlToken {
        /// The message, counted from 0.
        index: usize,
    },
    /// The rendered text cannot be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: Option<String>,
    eos: Option<String>,
    trims_answer: bool,
}

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are what it sees as `bos_token` and `eos_token`.
    ///
    /// # Errors
    ///
    /// A template that is too long or not valid Jinja.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, ChatError> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(ChatError::TemplateTooLong { found: source.len() });
        }
        let mut environment = environment().map_err(ChatError::Template)?;
        environment.add_template_owned(NAME, without_generation_tags(source)).map_err(ChatError::Template)?;
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let mut template = Self { environment, bos: owned(bos), eos: owned(eos), trims_answer: false };
        let prompt = template.render(&[Message::new("user", "x")], true);
        template.trims_answer = prompt.is_ok_and(|prompt| prompt.ends_with(' '));
        Ok(template)
    }

    /// The template of a model, given the one in its file, with known mistakes put right: the published BitNet GGUF
    /// carries a format the model was not trained on.
    ///
    /// # Errors
    ///
    /// As [`ChatTemplate::new`].
    pub fn for_model(template: Option<&str>, tokenizer: &Tokenizer) -> Result<Option<Self>, ChatError> {
        let Some(source) = template.filter(|source| !source.trim().is_empty()) else { return Ok(None) };
        let mistaken = source.contains("BITNETAssistant") && tokenizer.token_id("<|eot_id|>").is_some();
        let source = if mistaken { BITNET } else { source };
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id));
        Self::new(source, text(tokenizer.bos()), text(tokenizer.eos())).map(Some)
    }

    /// Whether the prompt for an answer ends in a space, so that an answer may begin with one that does not belong to
    /// it.
    pub fn trims_answer(&self) -> bool {
        self.trims_answer
    }

    /// The conversation as text, with the beginning of an answer where `add_generation_prompt`.
    ///
    /// # Errors
    ///
    /// A role with characters other than letters, digits, `_` and `-`, and whatever the template raises, its limits
    /// included.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, ChatError> {
        if let Some(message) = messages.iter().find(|message| !is_role(&message.role)) {
            return Err(ChatError::Role { found: message.role.chars().take(80).collect() });
        }
        let context = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt,
            bos_token => self.bos.as_deref(),
            eos_token => self.eos.as_deref(),
            // transformers passes these whether they are used or not, and templates ask whether they are none.
            tools => (),
            documents => (),
        };
        let template = self.environment.get_template(NAME).map_err(ChatError::Template)?;
        template.render(context).map_err(ChatError::Render)
    }
}

/// The name errors give the template.
const NAME: &str = "chat template";

fn is_role(role: &str) -> bool {
    let allowed = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-');
    (1..=64).contains(&role.len()) && role.chars().all(allowed)
}

/// Jinja as transformers sets it up, with limits.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime::now);
    Ok(environment)
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Python's `json.dumps(value, ensure_ascii=False)`: no HTML escapes, a space after each comma and colon.
fn to_json(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let failed = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut json = Vec::new();
    match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, formatter)).map_err(failed)?;
        }
        None => {
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, PythonFormatter)).map_err(failed)?;
        }
    }
    String::from_utf8(json).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// Python's default separators.
struct PythonFormatter;

impl serde_json::ser::Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// Turns transformers' `{% generation %}` blocks, which only mark text for training, into blocks that do nothing.
fn without_generation_tags(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        result.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let inside = tag.trim_start_matches("{%").trim_end_matches("%}").trim_matches(['-', '+']).trim();
        match inside {
            "generation" => result.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => result.push_str(&tag.replace("endgeneration", "endif")),
            _ => result.push_str(tag),
        }
        rest = after;
    }
    result.push_str(rest);
    result
}

/// The token ids of a rendered conversation.
///
/// Control tokens count where the template wrote them and are ordinary characters inside the messages. The
/// beginning-of-sequence token is added where the model wants it and the template has not written it already.
///
/// # Errors
///
/// As [`ChatTemplate::render`] and [`Tokenizer::encode`], and [`ChatError::ControlToken`] where a template rewrites a
/// message that contains a control token.
pub fn encode_chat(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    messages: &[Message],
    add_generation_prompt: bool,
) -> Result<Vec<u32>, ChatError> {
    let rendered = template.render(messages, add_generation_prompt)?;
    let protected = match content_ranges(template, messages, add_generation_prompt, &rendered) {
        Some(ranges) => ranges,
        None => match messages.iter().position(|message| tokenizer.has_control_tokens(&message.content)) {
            Some(index) => return Err(ChatError::ControlToken { index }),
            None => Vec::new(),
        },
    };
    let mut ids = tokenizer.encode_protected(&rendered, &protected)?;
    if let Some(bos) = tokenizer.bos().filter(|bos| tokenizer.adds_bos() && ids.first() != Some(bos)) {
        ids.insert(0, bos);
    }
    Ok(ids)
}

/// Where the messages' texts stand in the rendered template.
///
/// The conversation is rendered once more with marks around each text. If the result without the marks is the rendered
/// text, the marks are right; if not (a template that looks into the texts), nobody can say, and this is `None`.
fn content_ranges(
    template: &ChatTemplate,
    messages: &[Message],
    add_generation_prompt: bool,
    rendered: &str,
) -> Option<Vec<Range<usize>>> {
    let (open, close) = unused_characters(messages, rendered)?;
    let mark = |message: &Message| {
        // Outer whitespace stays outside, where the template may trim it as before.
        let core = message.content.trim();
        let content = match message.content.split_once(core).filter(|_| !core.is_empty()) {
            Some((before, after)) => format!("{before}{open}{core}{close}{after}"),
            None => message.content.clone(),
        };
        Message { role: message.role.clone(), content }
    };
    let marked: Vec<Message> = messages.iter().map(mark).collect();
    let marked = template.render(&marked, add_generation_prompt).ok()?;
    let mut plain = String::with_capacity(rendered.len());
    let mut ranges = Vec::new();
    let mut start = None;
    for character in marked.chars() {
        if character == open {
            start = Some(plain.len());
        } else if character == close {
            ranges.push(start.take()?..plain.len());
        } else {
            plain.push(character);
        }
    }
    (start.is_none() && plain == rendered).then_some(ranges)
}

/// Two private-use characters that occur nowhere.
fn unused_characters(messages: &[Message], rendered: &str) -> Option<(char, char)> {
    let occurs = |character: char| {
        rendered.contains(character) || messages.iter().any(|message| message.content.contains(character))
    };
    let mut unused = ('\u{f0000}'..='\u{f00ff}').filter(|&character| !occurs(character));
    Some((unused.next()?, unused.next()?))
}

/// Python's `datetime.now().strftime`, in UTC, for the fields that templates print.
mod strftime {
    use std::time::{SystemTime, UNIX_EPOCH};

    const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
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
    pub(super) fn now(format: String) -> String {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
        at(seconds, &format)
    }

    /// A time, in seconds since 1970, in a format of strftime. Unknown fields stay as they are.
    pub(super) fn at(seconds: u64, format: &str) -> String {
        let (days, of_day) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = date(days);
        let name = |names: &'static [&'static str], index: u64| {
            usize::try_from(index).ok().and_then(|index| names.get(index)).copied().unwrap_or_default()
        };
        let (weekday, month_name) = (name(&DAYS, (days + 3) % 7), name(&MONTHS, month - 1));
        let mut text = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                text.push(character);
                continue;
            }
            match characters.next() {
                Some('Y') => text.push_str(&year.to_string()),
                Some('m') => text.push_str(&format!("{month:02}")),
                Some('d') => text.push_str(&format!("{day:02}")),
                Some('H') => text.push_str(&format!("{:02}", of_day / 3600)),
                Some('M') => text.push_str(&format!("{:02}", of_day / 60 % 60)),
                Some('S') => text.push_str(&format!("{:02}", of_day % 60)),
                Some('B') => text.push_str(month_name),
                Some('b') => text.extend(month_name.chars().take(3)),
                Some('A') => text.push_str(weekday),
                Some('a') => text.extend(weekday.chars().take(3)),
                Some('%') | None => text.push('%'),
                Some(other) => text.extend(['%', other]),
            }
        }
        text
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::{GgufVocabulary, TokenizerSource};
    use crate::tokenizer::SpecialTokens;

    const LLAMA3: &str = "{% set loop_messages = messages %}{% for message in loop_messages %}\
        {% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim \
        + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}\
        {% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";
    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
        {{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}\
        {{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    const FALCON3: &str = "{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- '<|system|>\\n' + message.content + '\\n' }}
    {%- elif message.role in ['user', 'assistant'] %}
        {{- '<|' ~ message.role ~ '|>\\n' + message.content }}
        {%- if message.role == 'assistant' and not loop.last %}{{ eos_token }}{% endif %}
        {{- '\\n' }}
    {%- else %}
        {{- raise_exception('unknown role ' + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\\n' }}
{%- endif %}
";

    fn conversation() -> Vec<Message> {
        vec![
            Message::new("system", "Be brief. "),
            Message::new("user", " Hi\n"),
            Message::new("assistant", "Hello."),
            Message::new("user", "2 < 3?"),
        ]
    }

    fn rendered(source: &str) -> String {
        ChatTemplate::new(source, Some("<s>"), Some("</s>")).unwrap().render(&conversation(), true).unwrap()
    }

    #[test]
    fn bitnet_renders_as_published() {
        assert_eq!(
            rendered(BITNET),
            "<s>System: Be brief.<|eot_id|>User: Hi<|eot_id|>Assistant: Hello.<|eot_id|>User: 2 < 3?<|eot_id|>Assistant: "
        );
    }

    #[test]
    fn llama3_renders_as_published() {
        assert_eq!(
            rendered(LLAMA3),
            "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi\
             <|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|><|start_header_id|>user\
             <|end_header_id|>\n\n2 < 3?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        );
    }

    #[test]
    fn chatml_renders_as_published() {
        assert_eq!(
            rendered(CHATML),
            "<|im_start|>system\nBe brief. <|im_end|>\n<|im_start|>user\n Hi\n<|im_end|>\n<|im_start|>assistant\nHello.\
             <|im_end|>\n<|im_start|>user\n2 < 3?<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn falcon3_renders_as_published() {
        assert_eq!(
            rendered(FALCON3),
            "<|system|>\nBe brief. \n<|user|>\n Hi\n\n<|assistant|>\nHello.</s>\n<|user|>\n2 < 3?\n<|assistant|>\n"
        );
    }

    #[test]
    fn blocks_on_lines_of_their_own_leave_no_whitespace() {
        let source = "{% for message in messages %}\n    {% generation %}\n{{ message.content.strip() }};\n  \
            {%- endgeneration -%}\n{% endfor %}\n{{ bos_token }}{{ nothing }}\n";
        assert_eq!(rendered(source), "Be brief.;Hi;Hello.;2 < 3?;<s>");
    }

    #[test]
    fn json_is_python_json() {
        let source = "{{ {'a': [1, 2.5, none, true], 'b': 'é<\"'} | tojson }}{{ {'a': [1]} | tojson(indent=2) }}";
        assert_eq!(rendered(source), "{\"a\": [1, 2.5, null, true], \"b\": \"é<\\\"\"}{\n  \"a\": [\n    1\n  ]\n}");
    }

    #[test]
    fn dates_are_strftime_dates() {
        assert_eq!(
            strftime::at(1_709_210_096, "%d %b %Y, %A %B %H:%M:%S %a %m %% %q"),
            "29 Feb 2024, Thursday February 12:34:56 Thu 02 % %q"
        );
        assert_eq!(strftime::at(0, "%Y-%m-%d %A"), "1970-01-01 Thursday");
        assert_eq!(rendered("{{ strftime_now('%Y') | length }}"), "4");
    }

    #[test]
    fn a_template_can_refuse() {
        let error = ChatTemplate::new(FALCON3, None, None).unwrap().render(&[Message::new("tool", "x")], true);
        let text = error.unwrap_err().to_string();
        assert!(text.contains("unknown role tool"), "{text}");
    }

    #[test]
    fn hostile_templates_end() {
        let endless = "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}";
        let error = ChatTemplate::new(endless, None, None).unwrap().render(&conversation(), true).unwrap_err();
        assert!(error.to_string().contains("fuel"), "{error}");
        let recursive = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
        assert!(ChatTemplate::new(recursive, None, None).unwrap().render(&conversation(), true).is_err());
        let nested = "{% if true %}".repeat(100_000);
        assert!(ChatTemplate::new(&nested, None, None).is_err());
        let doubling = format!("{{% set s = 'xxxxxxxx' %}}{}{{{{ s }}}}", "{% set s = s ~ s %}".repeat(60));
        assert!(ChatTemplate::new(&doubling, None, None).unwrap().render(&conversation(), true).is_err());
        assert!(matches!(ChatTemplate::new(&"x".repeat(2 << 20), None, None), Err(ChatError::TemplateTooLong { .. })));
        assert!(matches!(ChatTemplate::new("{% include 'x' %}{{", None, None), Err(ChatError::Template(_))));
    }

    /// Bytes, and the control tokens of the templates above.
    fn tokenizer(pre: &str) -> Tokenizer {
        let mut tokens: Vec<Vec<u8>> = (33..=126u8).map(|byte| vec![byte]).collect();
        tokens.extend(["Ġ", "Ċ"].map(|text| text.as_bytes().to_vec()));
        let mut token_types = vec![1; tokens.len()];
        for text in ["<s>", "</s>", "<|eot_id|>", "<|im_start|>", "<|im_end|>"] {
            tokens.push(text.as_bytes().to_vec());
            token_types.push(3);
        }
        let vocabulary = GgufVocabulary {
            model: "gpt2".to_owned(),
            pre: Some(pre.to_owned()),
            tokens,
            token_types,
            bos: Some(96),
            eos: Some(97),
            ..GgufVocabulary::default()
        };
        Tokenizer::new(&TokenizerSource::Gguf(Box::new(vocabulary)), 101).unwrap()
    }

    /// The prompt as text, with control tokens in braces.
    fn shown(tokenizer: &Tokenizer, ids: &[u32]) -> String {
        let show = |&id: &u32| match tokenizer.is_special(id) {
            true => format!("{{{}}}", tokenizer.token_text(id).unwrap()),
            false => tokenizer.decode(&[id]),
        };
        ids.iter().map(show).collect()
    }

    #[test]
    fn control_tokens_in_messages_are_text() {
        let tokenizer = tokenizer("llama-bpe");
        let template = ChatTemplate::for_model(Some(BITNET), &tokenizer).unwrap().unwrap();
        let messages = [
            Message::new("user", " <|eot_id|>\n<s> "),
            Message::new("assistant", ""),
            Message::new("user", "|eot_id|>"),
        ];
        let ids = encode_chat(&tokenizer, &template, &messages, true).unwrap();
        assert_eq!(
            shown(&tokenizer, &ids),
            "{<s>}User: <|eot_id|>\n<s>{<|eot_id|>}Assistant: {<|eot_id|>}User: |eot_id|>{<|eot_id|>}Assistant: "
        );
    }

    #[test]
    fn the_first_token_is_there_once() {
        let messages = [Message::new("user", "a")];
        for (pre, expected) in [("llama-bpe", "{<s>}{<|im_start|>}"), ("smollm", "{<|im_start|>}")] {
            let tokenizer = tokenizer(pre);
            let template = ChatTemplate::for_model(Some("<|im_start|>{{ messages[0].content }}"), &tokenizer).unwrap();
            let ids = encode_chat(&tokenizer, &template.unwrap(), &messages, true).unwrap();
            assert_eq!(shown(&tokenizer, &ids), format!("{expected}a"));
        }
        let tokenizer = tokenizer("llama-bpe");
        let template = ChatTemplate::for_model(Some("{{ bos_token }}{{ messages[0].content }}"), &tokenizer).unwrap();
        let ids = encode_chat(&tokenizer, &template.unwrap(), &messages, true).unwrap();
        assert_eq!(shown(&tokenizer, &ids), "{<s>}a");
    }

    #[test]
    fn a_template_that_rewrites_messages_takes_no_control_tokens_in_them() {
        let tokenizer = tokenizer("llama-bpe");
        let template = ChatTemplate::for_model(Some("{{ messages[0].content[:3] }}</s>"), &tokenizer).unwrap().unwrap();
        let encode = |content| encode_chat(&tokenizer, &template, &[Message::new("user", content)], true);
        assert_eq!(shown(&tokenizer, &encode("abcd").unwrap()), "{<s>}abc{</s>}");
        assert!(matches!(encode("a</s>"), Err(ChatError::ControlToken { index: 0 })));
    }

    #[test]
    fn roles_are_words() {
        let template = ChatTemplate::new(CHATML, None, None).unwrap();
        let error = template.render(&[Message::new("user<|im_end|>", "x")], true).unwrap_err();
        assert!(matches!(error, ChatError::Role { found } if found == "user<|im_end|>"));
    }

    #[test]
    fn the_wrong_template_of_the_bitnet_gguf_is_replaced() {
        let tokenizer = tokenizer("llama-bpe");
        let wrong =
            "{% for message in messages %}{{ 'Human: ' + message['content'] + '\n\nBITNETAssistant: ' }}{% endfor %}";
        let template = ChatTemplate::for_model(Some(wrong), &tokenizer).unwrap().unwrap();
        let prompt = template.render(&[Message::new("user", "Hello")], true).unwrap();
        assert_eq!(prompt, "<s>User: Hello<|eot_id|>Assistant: ");
        assert!(template.trims_answer());
        assert!(!ChatTemplate::new(CHATML, None, None).unwrap().trims_answer());
        assert!(ChatTemplate::for_model(None, &tokenizer).unwrap().is_none());
    }

    #[test]
    fn encoding_as_text_finds_what_the_template_protects() {
        let tokenizer = tokenizer("llama-bpe");
        let ids = tokenizer.encode("<|eot_id|>", SpecialTokens::AsText).unwrap();
        assert_eq!(shown(&tokenizer, &ids), "<|eot_id|>");
    }
}
