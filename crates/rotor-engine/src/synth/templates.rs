//! Chat templates of the families that have a chat format.

pub(super) const LLAMA3: &str = concat!(
    "{{ bos_token }}{% for message in messages %}",
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}",
    "{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
);

pub(super) const FALCON3: &str = concat!(
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] }}",
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
);

pub(super) const CHATML: &str = concat!(
    "{% for message in messages %}",
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
);

pub(super) const HY_MT: &str = concat!(
    "{{ bos_token }}{% for message in messages %}",
    "{% if message['role'] == 'system' %}{{ message['content'] + '<｜hy_place▁holder▁no▁3｜>' }}",
    "{% elif message['role'] == 'user' %}{{ '<｜hy_User｜>' + message['content'] }}",
    "{% else %}{{ '<｜hy_Assistant｜>' + message['content'] + '<｜hy_place▁holder▁no▁2｜>' }}{% endif %}{% endfor %}",
    "{% if add_generation_prompt %}{{ '<｜hy_Assistant｜>' }}{% endif %}"
);
