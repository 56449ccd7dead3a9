#!/usr/bin/env python3
"""Writes crates/rotor-engine/tests/data/jinja.json: what Jinja2 and Python make of the templates and dates below, and
of the conversations below in the templates of crates/rotor-engine/tests/data/templates, which use what those of the
weight-only families use.

Chat templates are written for Jinja2 as transformers sets it up (a sandbox, trim_blocks, lstrip_blocks, loop controls, a
tojson of its own). rotor renders them with another engine; its test holds every template here against this file. A template
that Jinja2 refuses must be refused there too.

    pip install jinja2==3.1.6 && python tools/jinja_golden.py
"""

import datetime
import json
from pathlib import Path

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

CONTEXT = {
    "s": "Hello, World",
    "padded": "  \tin the middle \n",
    "accented": "Ünïcödé straße",
    "empty": "",
    "digits": "0042",
    "n": 7,
    "negative": -7,
    "f": 2.5,
    "yes": True,
    "nothing": None,
    "l": [3, 1, 2],
    "words": ["pear", "Apple", "fig"],
    "d": {"b": 1, "a": [1, 2], "c": {"x": None}},
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " Hi\n"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello", "tool_calls": [
            {"type": "function", "function": {"name": "get", "arguments": {"z": 1, "a": "é<\"'"}}}]},
    ],
}

EXPRESSIONS = r"""
s.upper()
s.lower()
s.title()
accented.title()
s.capitalize()
s.swapcase()
accented.casefold()
s.split()
s.split(',')
s.split(', ', 1)
s.split(sep=',')
s.split(maxsplit=1)
padded.split()
'a,b,,c'.split(',')
'a,b,,c'.split(',', 2)
'a b  c'.split(None, 1)
'a b  c'.split(' ')
'abc'.split('')
''.split()
''.split(',')
s.rsplit(',')
'a,b,c'.rsplit(',', 1)
'a b  c '.rsplit(None, 1)
'a b c'.rsplit(maxsplit=1)
s.partition(', ')
s.partition('x')
s.rpartition('o')
s.rpartition('x')
s.partition('')
s.removeprefix('Hello')
s.removeprefix('x')
s.removesuffix('World')
s.removesuffix('')
s.index('o')
s.index('o', 5)
s.index('zz')
s.rindex('o')
s.rindex('zz')
s.find('o')
s.find('o', 5)
s.find('o', 5, 6)
s.find('zz')
s.find('')
s.rfind('o')
s.rfind('o', 0, 5)
accented.find('ö')
accented.index('ß')
s.count('l')
s.count('l', 4)
s.count('')
s.startswith('Hello')
s.startswith('World', 7)
s.startswith(('x', 'He'))
s.startswith(['x', 'He'])
s.endswith('World')
s.endswith(('x', 'ld'))
s.startswith(1)
padded.strip()
padded.lstrip()
padded.rstrip()
'xxhixx'.strip('x')
'xyhiyx'.lstrip('xy')
'xyhiyx'.rstrip('xy')
padded.strip(None)
s.replace('o', '0')
s.replace('o', '0', 1)
s.replace('', '-')
s.replace('o')
'a\nb\r\nc'.splitlines()
'a\nb\r\nc\n'.splitlines(True)
'a\x0bb\x0cc\u2028d'.splitlines()
'a\nb'.splitlines(keepends=True)
''.splitlines()
digits.isdigit()
s.isdigit()
'½'.isdigit()
'½'.isnumeric()
'²'.isdigit()
'²'.isdecimal()
'12'.isdecimal()
''.isdigit()
s.isalpha()
'abc'.isalpha()
'a1'.isalnum()
''.isalnum()
s.islower()
'abc1'.islower()
'ABC1'.isupper()
' \t'.isspace()
''.isspace()
'abc'.isascii()
accented.isascii()
'Hello World'.istitle()
'Hello world'.istitle()
'a_1'.isidentifier()
'1a'.isidentifier()
'abc'.isprintable()
'a\nb'.isprintable()
digits.zfill(6)
'-42'.zfill(6)
'+4'.zfill(4)
'ab'.center(7)
'ab'.center(6, '*')
'abc'.center(6, '*')
'ab'.ljust(5) + '|'
'ab'.ljust(5, '.')
'ab'.rjust(5)
'ab'.rjust(1)
'ab'.rjust(5, 'xy')
'a\tb'.expandtabs()
'a\tb\n\tc'.expandtabs(4)
', '.join(words)
','.join('abc')
','.join(l)
','.join([])
'{} and {}'.format(1, 'x')
'{1}{0}'.format('a', 'b')
'{name}!'.format(name='x')
'{:>5}|{:<5}|{:^5}'.format('a', 'b', 'c')
'{:05.1f}'.format(f)
'{:,}'.format(1234567)
'{0[b]}'.format(d)
'{}'.format()
'{:d}'.format('x')
'{{}}'.format()
s.encode()
s.nope()
s.upper(1)
s.strip(1)
s.lower('x', 'y')
'%s' % s
'%s and %s' % (s, n)
'%d items' % n
'%5d|' % n
'%-5d|' % n
'%05d' % n
'%+d' % n
'%x' % 255
'%X' % 255
'%o' % 8
'%.2f' % f
'%8.3f|' % f
'%e' % f
'%g' % f
'%c' % 'x'
'%5s|' % 'ab'
'%-5s|' % 'ab'
'%.1s' % 'ab'
'100%%' % ()
'%(a)s-%(b)d' % {'a': 'x', 'b': 2}
'%s' % nothing
'%s' % yes
'%s' % (l,)
'%s' % l
'%d' % f
'%d' % 'x'
'%s %s' % 'x'
'%s' % ('a', 'b')
'x' % 1
'%' % 1
'%z' % 1
'a' ~ '%s' % 'b' ~ 'c'
'a' + '%s' % 'b' + 'c'
('%s' % 'b') | upper
'%s' % s | upper
'%s' % s.upper()
'%s' % l[0]
'%s' % -n
'%s' % d.a[1]
'%02d:%02d' % (n // 2, n % 2)
(s ~ '%d') % 3
n % 4
negative % 4
n % -4
n % 2.5
f % 1
n % 0
10 * n % 4
n % 4 * 10
n + 10 % 4
n % 5 % 2
n % 4 == 3
n % 2 == 1 and yes
not n % 7
2 ** n % 5
(n + 1) % 3
l[0] % 2
l | length % 2
[n % 4, n % 5]
{'k': n % 4}
n // 2
negative // 2
n / 2
7 / 7
n ** 2
2 ** -1
n - 1
-n
+n
n * 'ab'
'ab' * 3
'ab' * -1
[1] * 2
1 + 'a'
'a' + 1
'a' ~ 1 ~ none
[1] + [2]
1 == 1.0
'a' < 'b'
1 < 2 < 3
1 < 'a'
'a' in s
'H' in s
'b' in d
3 in l
4 not in l
yes and 'x'
empty or 'default'
nothing or empty or 0
not empty
'a' if yes else 'b'
'a' if not yes
none
true
false
nothing
True
None
1.0
1e3
1e16
1e22
0.1 + 0.2
1_000
2.5e-7
-0.0
[1, 'a', none, true, 2.5]
{'a': 1, 'b': [1, 'x']}
('a', 1)
(1,)
"it's"
["it's", 'a"b', "a\nb", 'é']
[]
{}
()
l[0]
l[-1]
l[5]
l[1:]
l[::-1]
l[:-1]
l[:2]
s[0]
s[-5:]
s[::-1]
s[::2]
s[20]
d['b']
d.b
d['zz']
d.zz
d.zz.yy
d['c']['x']
d.a.0
undefined_name
undefined_name.attr
undefined_name ~ 'x'
undefined_name + 'x'
undefined_name is defined
undefined_name | default('z')
nothing | default('z')
empty | default('z', true)
empty | d('z', boolean=true)
d.get('b')
d.get('zz')
d.get('zz', 5)
d.get()
d.keys() | list
d.values() | list
d.items() | list
d.copy()
d.items() | length
d.pop('b')
d.update({'x': 1})
d.nope()
l.count(1)
l.index(2)
l.index(9)
l.copy()
l.append(4)
l.pop()
l.sort()
l.nope()
('a', 'b', 'a').count('a')
('a', 'b').index('b')
n.bit_length()
f.is_integer()
(4.0).is_integer()
nothing.x
nothing.upper()
s | upper
s | lower
s | title
s | capitalize
padded | trim
'xxhixx' | trim('x')
s | length
l | length
d | length
s | count
n | length
s | wordcount
'' | wordcount
'one two-three  four_five' | wordcount
l | first
l | last
[] | first
s | first
s | last
d | first
l | sum
l | sum(start=10)
[] | sum
l | sort
l | sort(reverse=true)
words | sort
words | sort(case_sensitive=true)
messages | sort(attribute='role') | map(attribute='role') | list
l | min
l | max
[] | min
words | min
l | reverse | list
s | reverse
l | join
l | join(', ')
words | join(d='-')
messages | join(', ', attribute='role')
words | map('upper') | list
words | map('length') | join(',')
messages | map(attribute='role') | list
messages | map(attribute='zz', default='-') | list
messages | selectattr('role', 'equalto', 'user') | list | length
messages | selectattr('tool_calls', 'defined') | list | length
messages | selectattr('tool_calls') | list | length
messages | rejectattr('role', 'eq', 'system') | map(attribute='role') | join(',')
messages | rejectattr('role', 'in', ['system', 'user']) | map(attribute='role') | join(',')
l | select('odd') | list
l | select('>', 1) | list
l | reject('odd') | list
[0, 1, '', 'a'] | select | list
l | batch(2) | list
l | batch(2, 'x') | list
l | slice(2) | list
l | unique | list
[1, 1, 2] | unique | list
['a', 'A'] | unique | list
messages | groupby('role') | map(attribute='grouper') | list
messages | groupby('role') | map(attribute=0) | list
d | items | list
d | dictsort
d | dictsort(reverse=true)
d | dictsort(by='value')
{'b': 2, 'a': 3} | dictsort(false, 'value')
'42' | int
'x' | int
'x' | int(-1)
'x' | int(default=9)
'0x1f' | int(base=16)
'2.7' | int
2.7 | int
'2.5' | float
'x' | float
'x' | float(1.5)
n | float
42 | string
nothing | string
l | string
d | string
'a' | list
l | list
n | list
n | abs
negative | abs
2.567 | round
2.567 | round(1)
2.567 | round(2, 'floor')
2.1 | round(method='ceil')
7 | round
2.5 | round
s | replace('o', '0')
s | replace('o', '0', 1)
s | replace('o')
s | truncate(8)
s | truncate(8, true)
s | truncate(8, true, '')
s | truncate(5)
'a long sentence of words here' | truncate(12)
'a long sentence of words here' | truncate(12, false, '~', 0)
'a\nb\n\nc' | indent
'a\nb\n\nc' | indent(2)
'a\nb\n\nc' | indent(2, true)
'a\nb\n\nc' | indent(width=2, first=true, blank=true)
'a\nb' | indent('> ')
'ab' | center(6)
'%s-%s' | format('a', 1)
'%(x)s' | format(x=3)
'<a&"\'>' | escape
'<a>' | e
'<a>' | safe
'<b>x</b> y' | striptags
'a b&c=d/e' | urlencode
{'a': 1, 'b': 'x y'} | urlencode
'one two three four' | wordwrap(9)
'abcdefghijkl' | wordwrap(5)
'abcdefghijkl' | wordwrap(5, false)
'one two three' | wordwrap(7, wrapstring='|')
1234567 | filesizeformat
1234567 | filesizeformat(true)
{'a': 1} | xmlattr
messages[0] | attr('role')
d | tojson
d | tojson(indent=2)
d | tojson(indent=0)
d | tojson(sort_keys=true)
d | tojson(sort_keys=true, indent=1)
d | tojson(separators=(',', ':'))
d | tojson(separators=(', ', ' = '), indent=2)
d | tojson(ensure_ascii=true)
'é\n\t"\\/\u2028\x7f\x01😀' | tojson
'é\n\t"\\/\u2028\x7f\x01😀' | tojson(ensure_ascii=true)
'é\n' | tojson(false)
d | tojson(true, 2)
d | tojson(indent='--')
d | tojson(nope=1)
d | tojson(allow_nan=false)
[] | tojson(indent=2)
{} | tojson(indent=2)
[[], {}, [1]] | tojson(indent=4)
l | tojson
'</script>' | tojson
1.0 | tojson
1e22 | tojson
1e-7 | tojson
123456789012345678901234567890 | tojson
nothing | tojson
undefined_name | tojson
{1: 'a', none: 'b', true: 'c', 2.5: 'd'} | tojson
{'b': 1, 'a': {'d': 1, 'c': 2}} | tojson(sort_keys=true)
('a', 1) | tojson
messages[2].tool_calls[0].function.arguments | tojson
messages[2] | tojson
s | nope
s | upper(1)
s | upper('x')
s | trim(1, 2, 3)
s | length(1)
s | replace(old='o', new='0')
l | join(sep=', ')
l | first(2)
l | sort(nope=1)
s | default(nope=1)
s is string
n is number
n is integer
f is float
f is number
yes is boolean
yes is integer
n is string
l is iterable
s is iterable
d is mapping
l is mapping
l is sequence
s is sequence
d is sequence
nothing is none
nothing is not none
undefined_name is undefined
n is odd
n is even
n is divisibleby 7
n is divisibleby(2)
n is sameas 7
yes is true
yes is false
1 is true
s is upper
'AB' is upper
'ab' is lower
n is eq 7
n is equalto 7
n is ne 7
n is gt 6
n is ge 8
n is lt 8
n is le 7
n is in [7]
'upper' is filter
'nope' is filter
'odd' is test
s is callable
range is callable
s is escaped
n is nope
s is string and n is number
range(3) | list
range(1, 7, 2) | list
range(3, 0, -1) | list
range(n) | length
range()
dict(a=1, b=2)
dict(d, z=9) | length
dict()
namespace(a=1).a
raise_exception('no')
messages[1]['content'].strip().split('\n')[-1]
messages[2].content.split('</think>')[-1].lstrip('\n')
messages[2].content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n')
messages[2]['content'].startswith('<think>') and '</think>' in messages[2]['content']
messages[2].tool_calls[0].function.name
messages[0].tool_calls is defined
messages[0].get('tool_calls')
messages[-1]['role']
messages[::-1] | map(attribute='role') | join(' ')
messages[1:] | length
(messages | last).role
messages | length - 1
loop is defined
'a' 'b'
"a\tb"
'\u00e9\x41\101'
'a\
b'
1 if false
"""

TEMPLATES = [
    "line\r\nnext\rlast\n",
    "{% if true %}\r\n  yes\r\n{% endif %}\r\n{{ 'a\r\nb' | length }}",
    "{{ 'a\\r\\nb' | length }}",
    "  {%- if yes %} a {% endif -%}  b",
    "    {% if yes %}\n    x\n    {% endif %}\ny\n",
    "{# a comment #}\nx{#- trimmed -#} y",
    "a {#\n#} b\n\n",
    "trailing newline\n",
    "two trailing newlines\n\n",
    "{%+ if yes %} x{% endif +%}\ny",
    "  {%+ if yes %}x{% endif %}",
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}",
    "{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}",
    "{% for x in l %}{{ loop.cycle('odd', 'even') }} {% endfor %}",
    "{% for x in l %}{{ loop.changed(x > 1) }} {% endfor %}",
    "{% for x in [] %}x{% else %}none{% endfor %}",
    "{% for x in l if x > 1 %}{{ x }}{{ loop.index }} {% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d | items %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in d %}{{ k }};{% endfor %}",
    "{% for c in 'abc' %}{{ c }}.{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in nothing %}{% endfor %}",
    "{% for x in undefined_name %}x{% endfor %}",
    "{% for x in n %}{% endfor %}",
    "{% for i in range(3) %}{% for j in range(i) %}{{ i }}{{ j }} {% endfor %}{% endfor %}",
    "{% for i in range(3) recursive %}{{ i }}{% endfor %}",
    "{% for x in l %}{% set y = x %}{% endfor %}{{ y }}",
    "{% set ns = namespace(a=1, b='x') %}{% for x in l %}{% set ns.a = ns.a + x %}{% endfor %}{{ ns.a }}{{ ns.b }}",
    "{% set ns = namespace() %}{% set ns.x = 1 %}{{ ns.x }}{{ ns.y }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set x %}block {{ n }}{% endset %}{{ x | upper }}",
    "{% set x | upper %}block{% endset %}{{ x }}",
    "{% macro m(a, b='x') %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }} {{ m(1, 2) }} {{ m(b=3, a=4) }}",
    "{% macro m(a) %}{{ a }}{{ caller() }}{% endmacro %}{% call m(1) %}inner{% endcall %}",
    "{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m() }}",
    "{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, k=3) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% filter upper %}text {{ n }}{% endfilter %}",
    "{% with x = 5 %}{{ x }}{% endwith %}{{ x }}",
    "{% raw %}{{ not }} {% this %}{% endraw %}",
    "{% raw %}\n  x\n{% endraw %}\ny",
    "{% generation %}answer{% endgeneration %}",
    "{%- generation -%}\n answer \n{%- endgeneration -%}",
    "{% raw %}{% generation %}{% endraw %}",
    "{{ '{% generation %}' }}",
    "{# {% generation %} #}x",
    "{{ '100% %} of' }}",
    "{% if n % 2 == 1 %}odd{% else %}even{% endif %}",
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ loop.index0 }}{% endif %}{% endfor %}",
    "{% set x = '%s|%s' % ('a', n % 4) %}{{ x }}",
    "{{ '%s' % 'a' if yes else '%s' % 'b' }}",
    "{{ s % 1 if false else n % 4 }}",
    "{{ '%' }}% {{ n }}%",
    "{% if n == 7 -%}\n  a\n{%- elif n == 8 %}b{% else %}c{% endif %}!",
    "{% if undefined_name %}a{% else %}b{% endif %}",
    "{% if undefined_name.x %}a{% endif %}",
    "{% do l.append(1) %}",
    "{% nope %}",
    "{% if %}",
    "{% for x in l %}",
    "{{ n",
    "{{ }}",
    "{{ n n }}",
    "{% endif %}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{% block b %}in a block{% endblock %}",
    "{{ messages[0]['role'] ~ '\n' }}x",
    "{{- n -}}  x  {{- f -}}  ",
    "{{ [1, 2,] }}{{ {'a': 1,} }}{{ (1, 2,) }}",
    "{{ '\\n' }}|{{ \"\\\"\" }}|{{ '\\'' }}|{{ '\\\\' }}",
    "{% set tools = [{'type': 'function', 'function': {'name': 'f', 'parameters': {}}}] %}{% for t in tools %}{{ t | tojson }}{{ t.function | tojson(indent=4) }}{% endfor %}",
    "{% if messages[0].role == 'system' %}{% set loop_messages = messages[1:] %}{% set system = messages[0].content %}{% endif %}{{ system }}{{ loop_messages | length }}",
    "{% for m in messages %}{{ '<|' ~ m.role ~ '|>' }}{{ m['content'] | trim }}{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}",
    "{% set ns = namespace(multi=true, last=messages|length - 1) %}{% for m in messages[::-1] %}{% set index = (messages|length - 1) - loop.index0 %}{% if ns.multi and m.role == 'user' %}{% set ns.multi = false %}{% set ns.last = index %}{% endif %}{% endfor %}{{ ns.last }}",
    "{% for m in messages %}{% if m.tool_calls %}{% for call in m.tool_calls %}{% set call = call.function %}{{ call.name }}({% for k, v in call.arguments | items %}{{ k }}={{ v | tojson if v is mapping or (v is sequence and v is not string) else v | string }}{% if not loop.last %}, {% endif %}{% endfor %}){% endfor %}{% endif %}{% endfor %}",
    "{% for m in messages %}{{ raise_exception('system first') if m.role == 'system' and not loop.first }}{% endfor %}ok",
    "{% set content = messages[1].content %}{% if content is string %}{{ content }}{% elif content is iterable %}list{% endif %}",
    "{{ n }}{{ f }}{{ yes }}{{ nothing }}{{ l }}{{ d }}",
]

FORMATS = [f"%{c}" for c in "aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZ%"] + [
    "%-d", "%-m", "%-I", "%-H", "%-M", "%-S", "%-j", "%-y", "%_d", "%_m", "%_H", "%0e", "%^a", "%^B", "%#Z", "%#p", "%f",
    "%Y-%m-%d", "%d %b %Y", "%B %d, %Y", "%Y-%m-%d %H:%M:%S", "%-d %B %Y", "%I:%M %p", "%d/%m/%y", "%e %b", "%F %T", "100%%", "",
    "no field", "%A, %d %B %Y", "%H:%M %Z.", "é %d ü",
]

SECONDS = [0, 951782400, 1_709_210_096, 1_735_689_599, 1_767_225_600, 1_798_761_599, 4_102_444_799]

DATA = Path(__file__).parent.parent / "crates/rotor-engine/tests/data"

SYSTEM = {"role": "system", "content": "Be brief. "}
USER = {"role": "user", "content": " Hi\n"}
THOUGHT = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"}
AGAIN = {"role": "user", "content": "2 < 3?"}
CALLS = {
    "role": "assistant",
    "content": "Let me see.",
    "reasoning_content": "hm",
    "tool_calls": [
        {"type": "function", "function": {"name": "get", "arguments": {"z": 1, "a": "é<\"'", "l": [1, {"x": None}]}}},
        {"type": "function", "function": {"name": "put", "arguments": {}}},
    ],
}
TOOL = {"type": "function", "function": {"name": "get", "parameters": {"type": "object", "properties": {}}}}
ANSWERS = [{"role": "tool", "content": "42"}, {"role": "tool", "content": "<none>"}]

# What a chat template gets beside `tools` and `documents`, which are none unless given.
CONVERSATIONS = [
    {"messages": [SYSTEM, USER], "add_generation_prompt": True},
    {"messages": [USER], "add_generation_prompt": True, "enable_thinking": False},
    {"messages": [SYSTEM, USER, THOUGHT, AGAIN], "add_generation_prompt": True, "enable_thinking": True},
    {"messages": [USER, THOUGHT], "add_generation_prompt": False},
    {"messages": [USER, SYSTEM], "add_generation_prompt": True},
    {"messages": [USER, AGAIN], "add_generation_prompt": True, "reasoning_effort": "medium"},
    {"messages": [SYSTEM, USER, CALLS, *ANSWERS], "add_generation_prompt": True, "tools": [TOOL, TOOL]},
    {"messages": [USER, CALLS, *ANSWERS, AGAIN], "add_generation_prompt": True, "tools": [TOOL]},
]


def families(env: ImmutableSandboxedEnvironment) -> dict[str, list[str | None]]:
    """For each template what becomes of every conversation, none where it raises; of those with tools, where it takes them."""
    found: dict[str, list[str | None]] = {}
    for path in sorted((DATA / "templates").glob("*.jinja")):
        template = path.read_text(encoding="utf-8")
        tokens = {"bos_token": "<s>", "eos_token": "</s>", "tools": None, "documents": None}
        cases = [case for case in CONVERSATIONS if "tools" in template or "tools" not in case]
        found[path.stem] = [outcome(env, template, tokens | case).get("text") for case in cases]
    return found


def environment() -> ImmutableSandboxedEnvironment:
    """Jinja2 as transformers sets it up for chat templates."""
    from jinja2.ext import Extension, loopcontrols

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

        def _render(self, caller):
            return caller()

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


def outcome(env: ImmutableSandboxedEnvironment, template: str, context: dict = CONTEXT) -> dict:
    """What the template becomes, or the kind of exception it ends in."""
    try:
        return {"template": template, "text": env.from_string(template).render(**context)}
    except Exception as error:  # Whatever it is, rotor has to refuse the template too.
        return {"template": template, "raises": type(error).__name__}


def main() -> None:
    env = environment()
    expressions = EXPRESSIONS.strip("\n").replace("\\\nb'", "\\\x00b'").split("\n")
    templates = ["{{ " + expression.replace("\x00", "\n") + " }}" for expression in expressions] + TEMPLATES
    dates = [
        [second, [datetime.datetime.fromtimestamp(second, datetime.timezone.utc).replace(tzinfo=None).strftime(f) for f in FORMATS]]
        for second in SECONDS
    ]
    golden = {
        "jinja2": jinja2.__version__,
        "context": CONTEXT,
        "templates": [outcome(env, template) for template in templates],
        "formats": FORMATS,
        "dates": dates,
        "conversations": CONVERSATIONS,
        "families": families(env),
    }
    path = DATA / "jinja.json"
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in golden.pop("templates"))
    head = json.dumps(golden, ensure_ascii=False)
    path.write_text(f'{head[:-1]},\n"templates": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
