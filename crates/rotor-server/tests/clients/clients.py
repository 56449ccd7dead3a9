"""The official clients of OpenAI and Anthropic, unchanged, against a server with the built-in model: clients.py URL."""

import json
import sys

import anthropic
import openai

url = sys.argv[1]
model = "rotor-tiny"
messages = [{"role": "user", "content": "Once upon a time"}]
parameters = {
    "type": "object",
    "properties": {"where": {"enum": ["here", "there"]}},
    "required": ["where"],
    "additionalProperties": False,
}
tools = [{"type": "function", "function": {"name": "look", "parameters": parameters}}]
ask = {"model": model, "messages": messages}
call = {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 100}


def openai_client() -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    chat = client.chat.completions
    whole = chat.create(**ask, max_tokens=20, seed=1, logprobs=True, top_logprobs=3)
    text = whole.choices[0].message.content
    assert text and whole.usage.completion_tokens == 20
    assert [len(token.top_logprobs) for token in whole.choices[0].logprobs.content] == [3] * 20
    chunks = list(chat.create(**ask, max_tokens=20, seed=1, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert chunks[-1].usage.completion_tokens == 20

    called = chat.create(**ask, **call).choices[0]
    assert called.finish_reason == "tool_calls"
    function = called.message.tool_calls[0].function
    assert function.name == "look" and json.loads(function.arguments)["where"] in ("here", "there")
    with chat.stream(**ask, **call) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    assert json.loads(final.choices[0].message.tool_calls[0].function.arguments)["where"] in ("here", "there")

    schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}}}
    schema |= {"required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "p", "strict": True, "schema": schema}}
    choice = chat.create(**ask, max_tokens=200, response_format=form).choices[0]
    assert choice.finish_reason == "stop" and 0 <= json.loads(choice.message.content)["a"] <= 99

    vectors = client.embeddings.create(model=model, input=["a king", "a queen"]).data
    assert [len(vector.embedding) for vector in vectors] == [256, 256]
    assert [entry.id for entry in client.models.list()] == [model] and client.models.retrieve(model).id == model
    assert client.completions.create(model=model, prompt="The", max_tokens=5).usage.completion_tokens == 5
    try:
        chat.create(**ask, temperature=5)
    except openai.BadRequestError as error:
        assert error.param == "temperature", error
    else:
        raise AssertionError("a temperature of 5 was taken")


def anthropic_client() -> None:
    client = anthropic.Anthropic(base_url=url, api_key="none")
    whole = client.messages.create(**ask, max_tokens=20)
    assert whole.stop_reason == "max_tokens" and whole.usage.output_tokens == 20 and whole.content[0].text
    with client.messages.stream(**ask, max_tokens=20) as stream:
        text = "".join(stream.text_stream)
        assert stream.get_final_message().content[0].text == text
    choice = {"type": "any", "disable_parallel_tool_use": True}
    look = [{"name": "look", "input_schema": parameters}]
    called = client.messages.create(**ask, max_tokens=100, tools=look, tool_choice=choice)
    assert called.stop_reason == "tool_use" and called.content[-1].input["where"] in ("here", "there")
    assert client.messages.count_tokens(**ask).input_tokens > 0


openai_client()
anthropic_client()
print("2 passed, 0 failed")
