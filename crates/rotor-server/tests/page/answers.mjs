/** The mock server's canned answers, and how a text becomes tokens with probabilities. */

const STORY =
    "The old captain had kept the letter for eleven years. He knew every fold of it, and the place where the ink had run; and still, when the wind came " +
    "round to the east, he took it from the drawer and read it again by the lamp.\n\nIt said that the ship would be back before the winter. It said nothing of which winter.";

const CODE = `A closure is a function that remembers the variables around it. This one counts:

\`\`\`python
def counter(start: int = 0):
    """Returns a function that gives the next number each time it is called."""
    value = start

    def next_number() -> int:
        nonlocal value  # the variable of the enclosing call, kept alive by this function, and by nothing else in the whole program
        value += 1
        return value

    return next_number
\`\`\`

| Name | Where it lives | Lifetime | What may change it | Remarks |
|:--|:--|--:|:-:|:--|
| \`start\` | the call of \`counter\` | until no closure needs it | nobody | given once by the caller |
| \`value\` | a cell of the closure | as long as \`next_number\` | \`next_number\` alone | the reason for \`nonlocal\` |
| \`next_number\` | the caller | the caller's business | the caller | an ordinary function |

Two things follow:

1. Each call of \`counter\` has a \`value\` **of its own**.
2. Nobody else can reach it, which is what makes it *private*.

> A closure is a poor man's object, and an object is a poor man's closure.`;

const MARKDOWN = `# First heading

Some *emphasis*, some **strength**, some \`code\`, a [link](https://example.org/page) and ~~a mistake~~.

- one
- two
  - nested
- [x] done
- [ ] to do

![a rotor](https://example.org/rotor.png) and <b onclick="alert(1)">raw HTML</b> <script>alert(2)</script>

[bad](javascript:alert(3)) and a definition: [later]

---

[later]: https://example.org/later
`;

const ARABIC = "كان يا ما كان، في قديم الزمان، بحّار عجوز يحفظ رسالة في درجٍ صغير.\n\n- قال إن السفينة ستعود.\n- ولم يقل أي شتاء.";

const paragraph = "This sentence is here to be long, and the next one is here to keep it company while the page scrolls. ";

/** @type {[RegExp, object][]} The first whose word is in the message. */
const ANSWERS = [
    [/\bcode\b/, { text: CODE }],
    [/\bmarkdown\b/, { text: MARKDOWN }],
    [/\barabic\b/, { text: ARABIC }],
    [
        /\bnovel\b/,
        {
            text: Array(480)
                .fill(paragraph)
                .join("")
                .replaceAll(/((?:[^.]*\. ){6})/g, "$1\n\n"),
            delay: 0,
        },
    ],
    [
        /\bprogram\b/,
        {
            text: `\`\`\`js\n${Array.from({ length: 1200 }, (_, line) => `const value${line} = compute(${line}); // line ${line}`).join("\n")}\n\`\`\``,
            delay: 0,
        },
    ],
    [
        /\bthink\b/,
        {
            text: "It stays upright because it steers into the fall.",
            thinking: "The user asks about bicycles. Gyroscopic effects are small; trail and steering matter more.",
        },
    ],
    [/\bslow\b/, { text: STORY, delay: 60 }],
    [/\bforever\b/, { text: Array(2000).fill("and on ").join(""), delay: 20 }],
    [/\bprefill\b/, { text: STORY, prefill: 1500 }],
    [/\bbytes\b/, { text: "Smile \u{1F642} again." }],
    [/\blength\b/, { text: "This answer ends where it", reason: "length" }],
    [/\bfills\b/, { text: "This answer ends where it", reason: "length", fills: true }],
    [
        /\bbreaks\b/,
        {
            text: STORY,
            breakAfter: 12,
            event: {
                message: "The model gave numbers that are not finite in layer 3.",
                type: "server_error",
                code: "not_finite",
            },
        },
    ],
    [/\bvanishes\b/, { text: STORY, breakAfter: 12, cut: true }],
    [
        /\bfails\b/,
        {
            fails: {
                status: 500,
                message: "The model's file was changed while it was in use. Start the server again.",
                type: "server_error",
                code: "file_changed",
            },
        },
    ],
    [
        /\bbusy\b/,
        {
            fails: {
                status: 429,
                message: "All places are taken and 64 requests wait.",
                type: "rate_limit_exceeded",
                code: "queue_full",
                retryAfter: 3,
            },
        },
    ],
    [
        /\btoo long\b/,
        {
            fails: {
                status: 400,
                message: "This model's maximum context length is 512 tokens, and the messages have 640.",
                type: "invalid_request_error",
                code: "context_length_exceeded",
                n_prompt_tokens: 640,
                n_ctx: 512,
            },
        },
    ],
];

/** What the server answers to a message. */
export function answerTo(message) {
    return ANSWERS.find(([word]) => word.test(message))?.[1] ?? { text: STORY };
}

/**
 * A text in pieces of about a token each, with log-probabilities that depend on nothing but the text.
 *
 * An emoji comes as two tokens of two bytes each, as byte-level vocabularies have it.
 */
export function tokensOf(text) {
    const random = randomFrom(text.length * 2654435761);
    const tokens = [];
    for (const piece of text.match(/\n+| ?[\p{L}\p{N}]{1,8}| ?[^\s\p{L}\p{N}]+|[^\S\n]+/gu) ?? []) {
        if (/\p{Extended_Pictographic}/u.test(piece)) tokens.push(split(piece, random));
        else tokens.push({ text: piece, entries: [entry(piece, bytesOf(piece), random)] });
    }
    return tokens;
}

/** One chunk of text whose bytes are those of two tokens. */
function split(piece, random) {
    const bytes = bytesOf(piece);
    const half = bytes.length - 2;
    return {
        text: piece,
        entries: [
            entry(piece.startsWith(" ") ? " \ufffd" : "\ufffd", bytes.slice(0, half), random),
            entry("\ufffd", bytes.slice(half), random),
        ],
    };
}

function entry(token, bytes, random) {
    const probability = random() < 0.6 ? 0.75 + 0.249 * random() : 0.012 + 0.7 * random();
    const others = [" the", " a", " and", " of", "<|end|>"].filter((other) => other !== token);
    const rest = 1 - probability;
    const alternatives = others.map((other, index) => ({
        id: 300 + index,
        token: other,
        bytes: other === "<|end|>" ? null : bytesOf(other),
        logprob: Math.log(rest * 0.5 ** (index + 1)),
    }));
    const own = { id: 1000 + token.length, token, bytes, logprob: Math.log(probability) };
    const top = [own, ...alternatives].sort((a, b) => b.logprob - a.logprob).slice(0, 5);
    const rank = [own, ...alternatives].sort((a, b) => b.logprob - a.logprob).indexOf(own) + 1;
    return { ...own, rank, ...(random() < 0.25 && probability > 0.7 ? { drafted: true } : {}), top_logprobs: top };
}

const bytesOf = (text) => [...Buffer.from(text)];

/** mulberry32: small, seeded, good enough for shades of grey. */
export function randomFrom(seed) {
    let state = seed >>> 0;
    return () => {
        state = (state + 0x6d2b79f5) >>> 0;
        let mixed = Math.imul(state ^ (state >>> 15), state | 1);
        mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
        return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
    };
}
