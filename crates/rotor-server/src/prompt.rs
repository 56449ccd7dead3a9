//! A conversation in OpenAI's shape to what the engine is asked for: the prompt's tokens, the constraint that tools and formats
//! ask for, and what is to be told apart in the answer.

use crate::error::ApiError;
use crate::generation::Ask;
use crate::models::Loaded;
use crate::parts::{CallForm, Splitting, TAGGED};
use rotor::chat::Conversation;
use rotor::engine::{GenerateError, GenerateOptions};
use rotor::grammar::{Grammar, guided};
use serde_json::{Map, Value, json};

/// Tools of one request at most.
const MAX_TOOLS: usize = 128;

/// Which tools may, must, or must not be called.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tools {
    /// OpenAI's objects, of type "function".
    pub(crate) tools: Vec<Value>,
    /// Whether one has to be called.
    pub(crate) required: bool,
    /// Whether several may be.
    pub(crate) parallel: bool,
}

impl Tools {
    /// Reads `tools`, `tool_choice` and `parallel_tool_calls`.
    pub(crate) fn read(
        tools: Option<&[Value]>,
        choice: Option<&Value>,
        parallel: Option<bool>,
    ) -> Result<Tools, ApiError> {
        let mut all = tools.unwrap_or_default().to_vec();
        if all.len() > MAX_TOOLS {
            return Err(ApiError::field("tools", format!("tools holds at most {MAX_TOOLS}, not {}", all.len())));
        }
        for (at, tool) in all.iter().enumerate() {
            check_tool(tool, at)?;
        }
        let wrong = |why: &str| ApiError::field("tool_choice", format!("tool_choice {why}"));
        let mode = match choice {
            None | Some(Value::Null) => "auto",
            Some(Value::String(mode)) => mode.as_str(),
            Some(Value::Object(choice)) => match choice.get("type").and_then(Value::as_str) {
                Some("function") => {
                    let name = choice.get("function").unwrap_or(&Value::Null).get("name").and_then(Value::as_str);
                    let name = name.ok_or_else(|| wrong("names no function"))?;
                    all.retain(|tool| name_of(tool) == Some(name));
                    if all.is_empty() {
                        return Err(wrong(&format!("names {name:?}, which is none of the tools")));
                    }
                    "required"
                }
                Some("allowed_tools") => {
                    let allowed = choice.get("allowed_tools").unwrap_or(&Value::Null);
                    let names: Vec<_> = allowed
                        .get("tools")
                        .and_then(Value::as_array)
                        .into_iter()
                        .flatten()
                        .filter_map(name_of)
                        .collect();
                    all.retain(|tool| name_of(tool).is_some_and(|name| names.contains(&name)));
                    allowed.get("mode").and_then(Value::as_str).unwrap_or("auto")
                }
                _ => return Err(wrong("must be a mode, a function, or allowed_tools")),
            },
            Some(_) => return Err(wrong("must be a string or an object")),
        };
        let required = match mode {
            "none" => {
                all.clear();
                false
            }
            "auto" => false,
            "required" => true,
            _ => return Err(wrong(&format!("must be none, auto or required, not {mode:?}"))),
        };
        if required && all.is_empty() {
            return Err(wrong("asks for a call, but there are no tools"));
        }
        Ok(Tools { tools: all, required, parallel: parallel.unwrap_or(true) })
    }
}

fn check_tool(tool: &Value, at: usize) -> Result<(), ApiError> {
    let wrong = |why: String| ApiError::field(format!("tools[{at}]"), format!("tools[{at}] {why}"));
    match tool.get("type").and_then(Value::as_str) {
        Some("function") => {}
        Some(other) => return Err(wrong(format!("is of type {other:?}; only functions can be called"))),
        None => return Err(wrong("has no type".into())),
    }
    let name = name_of(tool).ok_or_else(|| wrong("has no function.name".into()))?;
    let is_name =
        (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if !is_name {
        return Err(wrong(format!("has the name {name:?}; a name is 1 to 64 letters, digits, '_' and '-'")));
    }
    match &tool["function"]["parameters"] {
        Value::Null | Value::Object(_) => Ok(()),
        _ => Err(wrong("has parameters that are no JSON schema".into())),
    }
}

fn name_of(tool: &Value) -> Option<&str> {
    tool.get("function")?.get("name")?.as_str()
}

/// A chat that is to be answered.
#[derive(Debug)]
pub(crate) struct ChatPrompt<'a> {
    pub(crate) messages: &'a [Value],
    pub(crate) tools: Tools,
    /// OpenAI's `response_format`.
    pub(crate) format: Option<&'a Value>,
    /// What the request calls it.
    pub(crate) format_field: &'static str,
    /// Whether the model is to think, where it can.
    pub(crate) thinking: Option<bool>,
    /// Of the chat template.
    pub(crate) arguments: Map<String, Value>,
    pub(crate) continue_final_message: bool,
    pub(crate) add_generation_prompt: Option<bool>,
}

/// The conversation as the model's template is to render it.
pub(crate) fn conversation(model: &Loaded, chat: &ChatPrompt<'_>) -> Result<Conversation, ApiError> {
    let template = model.engine().chat_template().map_err(|error| ApiError::of_generation(&error, "messages"))?;
    if chat.messages.is_empty() {
        return Err(ApiError::field("messages", "messages holds no message"));
    }
    let mut arguments = chat.arguments.clone();
    if let Some(thinking) = chat.thinking {
        arguments.entry("enable_thinking").or_insert(thinking.into());
    }
    let mut conversation = Conversation {
        messages: chat.messages.to_vec(),
        tools: Vec::new(),
        add_generation_prompt: chat.add_generation_prompt.unwrap_or(!chat.continue_final_message),
        continue_final_message: chat.continue_final_message,
        template_arguments: arguments,
    };
    if template.takes_tools() {
        conversation.tools.clone_from(&chat.tools.tools);
    } else if !chat.tools.tools.is_empty() {
        conversation.messages.insert(0, instruction(&chat.tools.tools));
    }
    Ok(conversation)
}

/// Tells a model whose template has no place for tools how to call them.
fn instruction(tools: &[Value]) -> Value {
    let tools: Vec<_> = tools.iter().map(|tool| tool["function"].to_string()).collect();
    let form = r#"<tool_call>{"name": NAME, "arguments": {...}}</tool_call>"#;
    json!({ "role": "system", "content": format!("Call a function by writing {form}. Functions:\n{}", tools.join("\n")) })
}

/// Turns a chat into what the engine is asked for.
pub(crate) fn ask(model: &Loaded, chat: ChatPrompt<'_>, options: GenerateOptions) -> Result<Ask, ApiError> {
    // A long prompt takes a while to become tokens, and a large schema to become a grammar; the others go on meanwhile.
    tokio::task::block_in_place(|| ask_here(model, chat, options))
}

fn ask_here(model: &Loaded, chat: ChatPrompt<'_>, mut options: GenerateOptions) -> Result<Ask, ApiError> {
    let conversation = conversation(model, &chat)?;
    let engine = model.engine();
    let prompt = engine.encode_conversation(&conversation).map_err(|error| {
        let field =
            if matches!(error, GenerateError::Chat(rotor::chat::ChatError::NoTools)) { "tools" } else { "messages" };
        ApiError::of_generation(&error, field)
    })?;
    let grammar = grammar(model, &chat)?;
    let tail = tail(model, &prompt);
    let begins_thinking = model
        .thinking
        .is_some_and(|(open, close)| tail.rfind(open).is_some_and(|open| tail[open..].find(close).is_none()));
    let form = model.calls.unwrap_or(TAGGED);
    options.trim_start = engine.chat_template().is_ok_and(|template| template.trims_answer());
    let mut ask = Ask::new(prompt, options, "messages");
    ask.splitting = Splitting {
        calls: (!chat.tools.tools.is_empty()).then_some(if grammar.is_some() { forced_form(form) } else { form }),
        thinking: model.thinking.filter(|_| grammar.is_none()),
        begins_thinking,
    };
    if let Some(grammar) = grammar {
        let constraint = model.grammars()?.constraint(&grammar);
        let field = if chat.tools.required { "tools" } else { chat.format_field };
        ask.request.constraint = Some(constraint.map_err(|error| ApiError::field(field, error.to_string()))?);
    }
    Ok(ask)
}

/// The end of the prompt's text, in which thinking may have begun.
fn tail(model: &Loaded, prompt: &[u32]) -> String {
    const TOKENS: usize = 8;
    let last = &prompt[prompt.len().saturating_sub(TOKENS)..];
    let tokenizer = model.engine().tokenizer("text");
    let piece = |id: &u32| {
        let tokenizer = tokenizer.as_ref().ok()?;
        let bytes = tokenizer.token_bytes(*id).filter(|bytes| !bytes.is_empty());
        Some(match bytes {
            Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            None => tokenizer.token_text(*id)?.to_owned(),
        })
    };
    last.iter().filter_map(piece).collect()
}

/// The form in which calls are asked for under a grammar: forms that are no JSON are not written as grammars.
fn forced_form(form: CallForm) -> CallForm {
    match form {
        CallForm::Json { .. } => form,
        _ => TAGGED,
    }
}

/// The grammar that the answer has to keep, if any.
fn grammar(model: &Loaded, chat: &ChatPrompt<'_>) -> Result<Option<Grammar>, ApiError> {
    if chat.tools.required {
        return Ok(Some(call_grammar(&chat.tools, model.calls.unwrap_or(TAGGED))));
    }
    let Some(format) = chat.format.filter(|format| !format.is_null()) else { return Ok(None) };
    Grammar::of_response_format(format).map_err(|error| ApiError::field(chat.format_field, error.to_string()))
}

/// Calls in the family's own marks, one of the tools each, arguments as the tool's schema says.
fn call_grammar(tools: &Tools, form: CallForm) -> Grammar {
    let CallForm::Json { open, close } = forced_form(form) else { unreachable!("a forced form has marks") };
    let calls: Vec<_> = tools
        .tools
        .iter()
        .map(|tool| {
            let function = &tool["function"];
            let arguments = match &function["parameters"] {
                Value::Null => json!({ "type": "object", "properties": {}, "additionalProperties": false }),
                parameters => parameters.clone(),
            };
            let call = json!({
                "type": "object",
                "properties": { "name": { "const": function["name"] }, "arguments": arguments },
                "required": ["name", "arguments"],
                "additionalProperties": false,
            });
            format!("%json {}", guided(&call))
        })
        .collect();
    let repeat = if tools.parallel { "+" } else { "" };
    let names: Vec<_> = (0..calls.len()).map(|number| format!("call{number}")).collect();
    let rules: Vec<_> = calls.iter().zip(&names).map(|(call, name)| format!("{name}: {call}")).collect();
    Grammar::Lark(format!(
        "start: ({} \"\\n\" call \"\\n\" {} \"\\n\"?){repeat}\ncall: {}\n{}\n",
        json!(open),
        json!(close),
        names.join(" | "),
        rules.join("\n"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str) -> Value {
        json!({ "type": "function", "function": { "name": name, "parameters": { "type": "object" } } })
    }

    #[test]
    fn choices_of_tools() {
        let tools = [tool("f"), tool("g")];
        let read = |choice: Value| Tools::read(Some(&tools), Some(&choice), None);
        assert_eq!(read(json!("none")).unwrap().tools.len(), 0);
        assert!(!read(json!("auto")).unwrap().required);
        assert!(read(json!("required")).unwrap().required);
        let named = read(json!({ "type": "function", "function": { "name": "g" } })).unwrap();
        assert_eq!((named.tools, named.required), (vec![tool("g")], true));
        for wrong in [json!("some"), json!(1), json!({ "type": "function", "function": { "name": "h" } }), json!({})] {
            assert_eq!(read(wrong).unwrap_err().param.as_deref(), Some("tool_choice"));
        }
        assert!(Tools::read(None, Some(&json!("required")), None).is_err());
        for wrong in
            [json!({}), json!({ "type": "custom" }), json!({ "type": "function", "function": { "name": "a b" } })]
        {
            assert_eq!(Tools::read(Some(&[wrong]), None, None).unwrap_err().param.as_deref(), Some("tools[0]"));
        }
    }
}
