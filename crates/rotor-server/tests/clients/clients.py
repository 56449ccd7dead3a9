"""The official clients of OpenAI and Anthropic, unchanged, against the server at ROTOR_URL with the built-in model."""

import json
import os

import anthropic
import openai

url = os.environ["ROTOR_URL"]
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


def openai_responses() -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none").responses
    story = {"model": model, "input": "Once upon a time", "instructions": "Tell a story.", "max_output_tokens": 20}
    whole = client.create(**story, temperature=0)
    assert whole.status == "incomplete" and whole.incomplete_details.reason == "max_output_tokens"
    assert whole.output_text and whole.usage.output_tokens == 20 and whole.store is False
    events = list(client.create(**story, temperature=0, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[-1].response.output_text == whole.output_text

    include = ["message.output_text.logprobs"]
    told = client.create(**story, include=include, top_logprobs=2).output[0].content[0].logprobs
    assert [len(token.top_logprobs) for token in told] == [2] * 20

    look = {"type": "function", "name": "look", "parameters": parameters}
    forced = {"tools": [look, {"type": "web_search"}], "tool_choice": "required", "parallel_tool_calls": False}
    question = {"role": "user", "content": "Look."}
    with client.stream(model=model, input=[question], **forced) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert {"response.function_call_arguments.done", "response.completed"} <= kinds
    called = final.output[-1]
    assert called.type == "function_call" and json.loads(called.arguments)["where"] in ("here", "there")
    found = {"type": "function_call_output", "call_id": called.call_id, "output": "a house"}
    after = client.create(model=model, input=[question, called, found], tools=[look], max_output_tokens=10)
    assert after.usage.output_tokens == 10 and after.output

    schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}}}
    schema |= {"required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "name": "p", "strict": True, "schema": schema}
    answer = client.create(model=model, input="A number.", text={"format": form})
    assert answer.status == "completed" and 0 <= json.loads(answer.output_text)["a"] <= 99
    assert client.input_tokens.count(model=model, input="Once upon a time").input_tokens > 3

    for refused in ({"previous_response_id": "resp_1"}, {"background": True}, {"conversation": "conv_1"}):
        try:
            client.create(model=model, input="x", **refused)
        except openai.BadRequestError as error:
            assert error.param == next(iter(refused)), error
        else:
            raise AssertionError(f"{refused} was taken")
    try:
        client.retrieve("resp_1")
    except openai.NotFoundError as error:
        assert "stores none" in str(error), error
    else:
        raise AssertionError("a response was found that nobody stored")


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
openai_responses()
anthropic_client()
print("3 passed, 0 failed")
