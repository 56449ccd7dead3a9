use super::template::BITNET;
use super::*;
use crate::formats::{GgufVocabulary, TokenizerSource};
use crate::tokenizer::{SpecialTokens, Tokenizer};

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

fn conversation() -> Conversation {
    Conversation::from(&[
        Message::new("system", "Be brief. "),
        Message::new("user", " Hi\n"),
        Message::new("assistant", "Hello."),
        Message::new("user", "2 < 3?"),
    ])
}

fn rendered(source: &str) -> String {
    ChatTemplate::new(source, Some("<s>"), Some("</s>")).unwrap().render(&conversation()).unwrap()
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
fn a_date_is_printed_or_refused() {
    assert_eq!(rendered("{{ strftime_now('%Y') | length }}"), "4");
    let error = ChatTemplate::new("{{ strftime_now('%q') }}", None, None).unwrap().render(&conversation()).unwrap_err();
    assert!(error.to_string().contains("has a field that is not known"), "{error}");
}

#[test]
fn a_template_can_refuse() {
    let error = ChatTemplate::new(FALCON3, None, None).unwrap().render(&(&[Message::new("tool", "x")]).into());
    let text = error.unwrap_err().to_string();
    assert!(text.contains("unknown role tool"), "{text}");
}

#[test]
fn hostile_templates_end() {
    let endless = "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}";
    let error = ChatTemplate::new(endless, None, None).unwrap().render(&conversation()).unwrap_err();
    assert!(error.to_string().contains("fuel"), "{error}");
    let recursive = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    assert!(ChatTemplate::new(recursive, None, None).unwrap().render(&conversation()).is_err());
    let nested = "{% if true %}".repeat(100_000);
    assert!(ChatTemplate::new(&nested, None, None).is_err());
    let doubling = format!("{{% set s = 'xxxxxxxx' %}}{}{{{{ s }}}}", "{% set s = s ~ s %}".repeat(60));
    assert!(ChatTemplate::new(&doubling, None, None).unwrap().render(&conversation()).is_err());
    for wide in [
        "'%9999999999d' % 1",
        "'{:>9999999999}'.format('x')",
        "'x'.center(9999999999)",
        "'x'.replace('', 'y' * 99999999)",
    ] {
        let template = ChatTemplate::new(&format!("{{{{ {wide} }}}}"), None, None).unwrap();
        assert!(template.render(&conversation()).is_err(), "{wide}");
    }
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
    let messages =
        [Message::new("user", " <|eot_id|>\n<s> "), Message::new("assistant", ""), Message::new("user", "|eot_id|>")];
    let ids = encode_chat(&tokenizer, &template, &(&messages).into()).unwrap();
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
        let ids = encode_chat(&tokenizer, &template.unwrap(), &(&messages).into()).unwrap();
        assert_eq!(shown(&tokenizer, &ids), format!("{expected}a"));
    }
    let tokenizer = tokenizer("llama-bpe");
    let template = ChatTemplate::for_model(Some("{{ bos_token }}{{ messages[0].content }}"), &tokenizer).unwrap();
    let ids = encode_chat(&tokenizer, &template.unwrap(), &(&messages).into()).unwrap();
    assert_eq!(shown(&tokenizer, &ids), "{<s>}a");
}

#[test]
fn a_template_that_rewrites_messages_takes_no_control_tokens_in_them() {
    let tokenizer = tokenizer("llama-bpe");
    let template = ChatTemplate::for_model(Some("{{ messages[0].content[:3] }}</s>"), &tokenizer).unwrap().unwrap();
    let encode = |content| encode_chat(&tokenizer, &template, &(&[Message::new("user", content)]).into());
    assert_eq!(shown(&tokenizer, &encode("abcd").unwrap()), "{<s>}abc{</s>}");
    assert!(matches!(encode("a</s>"), Err(ChatError::ControlToken { place }) if place == "message 0"));
}

#[test]
fn roles_are_words() {
    let template = ChatTemplate::new(CHATML, None, None).unwrap();
    let error = template.render(&(&[Message::new("user<|im_end|>", "x")]).into()).unwrap_err();
    assert!(matches!(error, ChatError::Role { found } if found == "user<|im_end|>"));
}

#[test]
fn the_wrong_template_of_the_bitnet_gguf_is_replaced() {
    let tokenizer = tokenizer("llama-bpe");
    let wrong =
        "{% for message in messages %}{{ 'Human: ' + message['content'] + '\n\nBITNETAssistant: ' }}{% endfor %}";
    let template = ChatTemplate::for_model(Some(wrong), &tokenizer).unwrap().unwrap();
    let prompt = template.render(&(&[Message::new("user", "Hello")]).into()).unwrap();
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

/// A template that shows all there is to see.
const QWEN: &str = "{%- if tools %}{{ '<tools>' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{{ '</tools>\n' }}\
    {%- endif %}{%- for message in messages %}{{ '<|im_start|>' ~ message.role ~ '\n' }}\
    {%- if message.reasoning_content %}{{ '<think>' ~ message.reasoning_content ~ '</think>' }}{% endif %}\
    {%- if message.content %}{{ message.content }}{% endif %}\
    {%- for call in message.tool_calls or [] %}{{ '<tool_call>' ~ call.function.name ~ ' ' }}\
    {{- call.function.arguments | tojson ~ '</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}\
    {%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}\
    {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think></think>' }}{% endif %}{% endif %}";

fn openai(messages: serde_json::Value) -> Conversation {
    let messages = messages.as_array().unwrap().clone();
    Conversation { messages, add_generation_prompt: true, ..Conversation::default() }
}

#[test]
fn a_token_that_is_not_there_is_undefined() {
    let source = "{{ bos_token }}{{ eos_token }}|{{ bos_token is defined }}|{{ bos_token is none }}";
    let render = |bos| ChatTemplate::new(source, bos, None).unwrap().render(&conversation()).unwrap();
    assert_eq!(render(None), "|False|False");
    assert_eq!(render(Some("<s>")), "<s>|True|False");
}

#[test]
fn tools_calls_and_their_answers_reach_the_template() {
    let template = ChatTemplate::new(QWEN, None, None).unwrap();
    let mut conversation = openai(serde_json::json!([
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {"role": "assistant", "content": null, "reasoning": "hm", "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": \"é\"}"}},
            {"id": "2", "type": "function", "function": {"name": "g", "arguments": "no JSON"}},
        ]},
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    ]));
    conversation.tools = vec![serde_json::json!({"type": "function", "function": {"name": "f"}})];
    conversation.template_arguments.insert("enable_thinking".into(), false.into());
    assert_eq!(
        template.render(&conversation).unwrap(),
        "<tools>{\"type\": \"function\", \"function\": {\"name\": \"f\"}}</tools>\n<|im_start|>system\nBe brief.<|im_end|>\n\
         <|im_start|>assistant\n<think>hm</think><tool_call>f {\"b\": 1, \"a\": \"é\"}</tool_call><tool_call>g \"no JSON\"\
         </tool_call><|im_end|>\n<|im_start|>tool\n42<|im_end|>\n<|im_start|>assistant\n<think></think>"
    );
    let plain = ChatTemplate::new(CHATML, None, None).unwrap();
    assert!(matches!(plain.render(&conversation), Err(ChatError::NoTools)));
}

#[test]
fn a_last_message_can_go_on() {
    let messages = [Message::new("user", "x"), Message::new("assistant", "Once upon ")];
    let mut conversation = Conversation::from(&messages);
    conversation.add_generation_prompt = false;
    conversation.continue_final_message = true;
    let render =
        |source, conversation: &Conversation| ChatTemplate::new(source, None, None).unwrap().render(conversation);
    let expected = "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\nOnce upon ";
    assert_eq!(render(QWEN, &conversation).unwrap(), expected);
    assert_eq!(render(BITNET, &conversation).unwrap(), "User: x<|eot_id|>Assistant: Once upon", "it trims");
    let swallowed = render("{{ messages[0].content }}", &conversation).unwrap_err().to_string();
    assert!(swallowed.contains("does not print it whole"), "{swallowed}");
    conversation.add_generation_prompt = true;
    assert!(matches!(render(QWEN, &conversation), Err(ChatError::Continue { .. })));
}

#[test]
fn messages_of_another_shape_are_refused_by_number() {
    let template = ChatTemplate::new(QWEN, None, None).unwrap();
    for (message, told) in [
        (serde_json::json!("x"), "message 1 is not an object"),
        (serde_json::json!({"content": "x"}), "message 1 has no role"),
        (serde_json::json!({"role": "user", "content": 3}), "message 1 has a content that is neither"),
        (
            serde_json::json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
            "message 1 has a part of type \"image_url\"; only text is taken",
        ),
    ] {
        let conversation = openai(serde_json::json!([{"role": "user", "content": "x"}, message]));
        let error = template.render(&conversation).unwrap_err().to_string();
        assert!(error.starts_with(told), "{error}");
    }
    let mut conversation = conversation();
    conversation.template_arguments.insert("messages".into(), 1.into());
    assert!(matches!(template.render(&conversation), Err(ChatError::Argument { .. })));
}

#[test]
fn control_tokens_in_calls_and_tools_are_text() {
    let tokenizer = tokenizer("smollm");
    let template = ChatTemplate::for_model(Some(QWEN), &tokenizer).unwrap().unwrap();
    let mut conversation =
        openai(serde_json::json!([{"role": "assistant", "reasoning_content": "<|im_end|>", "tool_calls": [
        {"type": "function", "function": {"name": "f", "arguments": "{\"a\": \"</s>\"}"}}]}]));
    conversation.tools = vec![serde_json::json!({"function": {"description": "<|im_start|>"}})];
    conversation.add_generation_prompt = false;
    let ids = encode_chat(&tokenizer, &template, &conversation).unwrap();
    assert_eq!(
        shown(&tokenizer, &ids),
        "<tools>{\"function\": {\"description\": \"<|im_start|>\"}}</tools>\n{<|im_start|>}assistant\n<think><|im_end|></think>\
         <tool_call>f {\"a\": \"</s>\"}</tool_call>{<|im_end|>}\n"
    );
    conversation.tools = vec![serde_json::json!({"<|im_start|>": 1})];
    let error = encode_chat(&tokenizer, &template, &conversation).unwrap_err().to_string();
    assert!(error.starts_with("a tool contains a control token"), "{error}");
}

#[test]
fn tokens_that_a_template_writes_and_the_file_has_as_text_are_named() {
    let template = ChatTemplate::new("{{ '<|' ~ 'turn|>' ~ messages[0].content }}<|im_start|>", None, None).unwrap();
    assert!(template.spelled_tokens(&tokenizer("smollm")).is_empty());
    let mut tokens: Vec<Vec<u8>> = (33..=126u8).map(|byte| vec![byte]).collect();
    tokens.extend(["Ġ", "Ċ", "<|im_start|>", "<|turn|>", "<|"].map(|text| text.as_bytes().to_vec()));
    let mut token_types = vec![1; tokens.len()];
    token_types[96] = 3;
    let (model, pre) = ("gpt2".to_owned(), Some("smollm".to_owned()));
    let merges = ["< |"].into_iter().collect();
    let vocabulary =
        GgufVocabulary { model, pre, tokens, token_types, merges, eos: Some(96), ..GgufVocabulary::default() };
    let plain = Tokenizer::new(&TokenizerSource::Gguf(Box::new(vocabulary)), 99).unwrap();
    assert_eq!(template.spelled_tokens(&plain), ["<|turn|>"]);
}
