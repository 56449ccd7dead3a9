//! Templates and dates held against Jinja2 and Python, as `tools/jinja_golden.py` wrote them down.

use super::environment::environment;
use super::{ChatTemplate, Conversation, source, strftime};
use minijinja::Value;
use minijinja::value::Serde;
use serde_json::Value as Json;

/// What Jinja2 renders and rotor refuses, with an error that names it: no published template was seen to use any of it.
const REFUSED: [&str; 26] = [
    "{{ '%d' % f }}",
    "{{ '½'.isdigit() }}",
    "{{ '²'.isdigit() }}",
    "{{ '²'.isdecimal() }}",
    "{{ +n }}",
    "{{ 'a\\nb' | indent('> ') }}",
    "{{ 'a\\nb'.isprintable() }}",
    "{{ 'abc'.isprintable() }}",
    "{{ accented.casefold() }}",
    "{{ s.encode() }}",
    "{{ n.bit_length() }}",
    "{{ {'b': 2, 'a': 3} | dictsort(false, 'value') }}",
    "{{ '<b>x</b> y' | striptags }}",
    "{{ 'a b&c=d/e' | urlencode }}",
    "{{ {'a': 1, 'b': 'x y'} | urlencode }}",
    "{{ 'one two three four' | wordwrap(9) }}",
    "{{ 'abcdefghijkl' | wordwrap(5) }}",
    "{{ 'abcdefghijkl' | wordwrap(5, false) }}",
    "{{ 'one two three' | wordwrap(7, wrapstring='|') }}",
    "{{ 1234567 | filesizeformat }}",
    "{{ 1234567 | filesizeformat(true) }}",
    "{{ {'a': 1} | xmlattr }}",
    "{{ messages[0] | attr('role') }}",
    "{{ 123456789012345678901234567890 | tojson }}",
    "{{ {1: 'a', none: 'b', true: 'c', 2.5: 'd'} | tojson }}",
    "{{ s | replace(old='o', new='0') }}",
];
/// As [`REFUSED`]: tests and arguments.
const REFUSED_TESTS: [&str; 3] = [
    "{{ s is callable }}",
    "{{ range is callable }}",
    "{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, k=3) }}",
];
/// What Jinja2 refuses because Python cannot compare or go through such values, and minijinja can. A template that works is
/// not touched by it.
const LENIENT: [&str; 3] = ["{{ 1 < 'a' }}", "{{ d | dictsort(by='value') }}", "{% for x in nothing %}{% endfor %}"];

fn golden() -> Json {
    serde_json::from_str(include_str!("../../tests/data/jinja.json")).unwrap()
}

fn rendered(template: &str, context: &Json) -> Result<String, minijinja::Error> {
    let environment = environment()?;
    let prepared = source::prepared(template);
    environment.template_from_str(&prepared)?.render(Value::from(Serde(context)))
}

#[test]
fn templates_become_what_jinja2_makes_of_them() {
    let golden = golden();
    let templates = golden["templates"].as_array().unwrap();
    assert!(templates.len() > 400, "{} templates", templates.len());
    let mut wrong = Vec::new();
    for case in templates {
        let template = case["template"].as_str().unwrap();
        let expected = case["text"].as_str();
        let found = rendered(template, &golden["context"]);
        match (&found, expected) {
            (Ok(found), Some(expected)) if found == expected => {}
            (Err(_), None) => {}
            (Err(_), Some(_)) if REFUSED.contains(&template) || REFUSED_TESTS.contains(&template) => {}
            (Ok(_), None) if LENIENT.contains(&template) => {}
            _ => wrong.push(format!("{template}\n    Jinja2: {case}\n    rotor:  {found:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// A conversation as `tools/jinja_golden.py` writes it: what has no field of its own is an argument of the template.
fn conversation(case: &Json) -> Conversation {
    let mut arguments = case.as_object().unwrap().clone();
    let mut list = |name: &str| arguments.remove(name).map_or_else(Vec::new, |list| list.as_array().unwrap().clone());
    let (messages, tools) = (list("messages"), list("tools"));
    let add_generation_prompt = arguments.remove("add_generation_prompt") == Some(Json::Bool(true));
    let template_arguments = arguments.into_iter().collect();
    Conversation { messages, tools, add_generation_prompt, template_arguments, ..Conversation::default() }
}

/// Whole templates that use what those of the weight-only families use: Qwen 3's with tools and thinking (Bonsai), one with macros
/// and calls in tags (Bonsai 27B), one that takes an effort (Bonsai 2), ChatML (BitCPM), Hunyuan's (Hy-MT).
#[test]
fn the_templates_of_the_families_become_what_jinja2_makes_of_them() {
    let golden = golden();
    let conversations: Vec<Conversation> =
        golden["conversations"].as_array().unwrap().iter().map(conversation).collect();
    let families = golden["families"].as_object().unwrap();
    assert_eq!(families.keys().collect::<Vec<_>>(), ["bitcpm", "bonsai-2", "bonsai-27b", "bonsai", "hy-mt"]);
    for (family, expected) in families {
        let path = format!("{}/tests/data/templates/{family}.jinja", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let template = ChatTemplate::new(&text, Some("<s>"), Some("</s>")).unwrap();
        let taken = conversations.iter().filter(|case| case.tools.is_empty() || template.takes_tools());
        let found: Vec<Json> = taken.map(|case| template.render(case).map_or(Json::Null, Json::String)).collect();
        assert_eq!(&Json::Array(found), expected, "{family}");
    }
}

#[test]
fn dates_become_what_python_makes_of_them() {
    let golden = golden();
    let formats: Vec<&str> = golden["formats"].as_array().unwrap().iter().filter_map(Json::as_str).collect();
    for date in golden["dates"].as_array().unwrap() {
        let seconds = date[0].as_u64().unwrap();
        for (format, expected) in formats.iter().zip(date[1].as_array().unwrap()) {
            let found = strftime::at(seconds, format).unwrap();
            assert_eq!(found, expected.as_str().unwrap(), "{format:?} at {seconds}");
        }
    }
    for unknown in ["%q", "%", "%5d", "%E", "%-f", "a%!"] {
        assert!(strftime::at(0, unknown).is_err(), "{unknown}");
    }
}
