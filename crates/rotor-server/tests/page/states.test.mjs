/** What the mock server can make happen and a real one seldom does: errors, odd answers, every state of server and model. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { MODELS } from "./canned.mjs";
import { answered, answerText, end, lastAnswer, mockOnly, ready, say, server, start, withPage } from "./browser.mjs";

before(start);
after(end);

const state = (name, body, setup) => test(name, { skip: mockOnly }, () => withPage(body, setup));

state("Markdown becomes harmless elements", async (page) => {
    await say(page, "markdown");
    const answer = await answered(page);
    const html = await answer.locator(".markdown").innerHTML();
    assert.doesNotMatch(html, /<(img|script|b|style|iframe)\b/);
    assert.doesNotMatch(html, /javascript:/);
    assert.match(await answerText(page), /<script>alert\(2\)<\/script>/);
    await answer.getByRole("link", { name: "image: a rotor (https://example.org/rotor.png)" }).waitFor();
    assert.equal(await answer.getByRole("link", { name: "later" }).getAttribute("rel"), "noopener noreferrer");
    assert.equal(await answer.locator("h3").innerText(), "First heading");
    assert.equal(await answer.locator("li input:checked").count(), 1);
});

state("code keeps its lines, tables scroll in their own box, both can be copied", async (page, context) => {
    await context.grantPermissions(["clipboard-read", "clipboard-write"]);
    await say(page, "code");
    const answer = await answered(page);
    assert.ok(await answer.locator(".code pre").evaluate((box) => box.scrollWidth > box.clientWidth));
    assert.ok(await answer.locator(".table").evaluate((box) => box.scrollWidth > box.clientWidth));
    await answer.locator(".copy-code").click();
    assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^def counter\(start: int = 0\):\n    """Returns/);
    await answer.locator(".copy-table").click();
    assert.match(
        await page.evaluate(() => navigator.clipboard.readText()),
        /^Name\tWhere it lives\tLifetime\t.+\nstart\tthe call of counter\t/,
    );
    await answer.getByRole("button", { name: "Copy", exact: true }).last().click();
    assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^A closure is .+\| Name \|/s);
});

state("streaming renders what the finished text renders", async (page) => {
    await say(page, "code");
    const answer = await answered(page);
    const streamed = await answer.locator(".markdown").innerHTML();
    await page.reload();
    await answer.locator(".table").waitFor();
    assert.equal(await answer.locator(".markdown").innerHTML(), streamed);
});

state("right-to-left text runs from the right", async (page) => {
    await say(page, "arabic");
    const answer = await answered(page);
    for (const block of ["p", "ul"])
        assert.equal(
            await answer
                .locator(block)
                .first()
                .evaluate((box) => getComputedStyle(box).direction),
            "rtl",
        );
});

state("an answer of 50,000 characters streams at a frame's pace and does not move what was there", async (page) => {
    await ready(page);
    await page.evaluate(() => {
        window.longest = 0;
        new PerformanceObserver((list) =>
            list.getEntries().forEach((entry) => (window.longest = Math.max(window.longest, entry.duration))),
        ).observe({ type: "longtask" });
        window.shifted = 0;
        new PerformanceObserver((list) => list.getEntries().forEach((entry) => (window.shifted += entry.value))).observe({
            type: "layout-shift",
            buffered: false,
        });
    });
    await say(page, "novel");
    await answered(page);
    assert.ok((await answerText(page)).length > 48_000);
    const { longest, shifted } = await page.evaluate(() => ({ longest, shifted }));
    console.log(`# longest task ${longest} ms, layout shift ${shifted.toFixed(4)}`);
    assert.ok(shifted < 0.1, `layout shift ${shifted}`);
    const placed = await page.locator(".scroll").evaluate((box) => box.scrollHeight - box.scrollTop - box.clientHeight);
    assert.ok(placed < 4, "the page followed to the end");
});

state("one block of 1,200 lines of code streams", async (page) => {
    await say(page, "program");
    await answered(page);
    assert.match(await lastAnswer(page).locator("code").innerText(), /const value1199 = compute\(1199\); \/\/ line 1199\s*$/);
});

state("who has scrolled away is not followed, and jumps back", async (page) => {
    await say(page, "forever");
    await page.waitForFunction(
        () => document.querySelector(".scroll").scrollHeight > document.querySelector(".scroll").clientHeight + 200,
        null,
        { timeout: 30_000 },
    );
    await page.locator(".scroll").hover();
    await page.mouse.wheel(0, -150);
    await page.getByRole("button", { name: "Jump to the newest" }).waitFor();
    const place = await page.locator(".scroll").evaluate((box) => box.scrollTop);
    await page.waitForTimeout(300);
    assert.equal(await page.locator(".scroll").evaluate((box) => box.scrollTop), place);
    await page.getByRole("button", { name: "Jump to the newest" }).click();
    await page.waitForFunction(() => document.querySelector(".jump").hidden);
    await page.keyboard.press("Escape");
    await page.getByText("Stopped here.").waitFor();
});

state("a thinking part is folded, with its length and time", async (page) => {
    await say(page, "think");
    const answer = await answered(page);
    assert.match(await answer.locator("summary").innerText(), /^Thought · \d+ tokens · [\d.]+ s$/);
    assert.equal(await answer.locator("details").evaluate((details) => details.open), false);
    await answer.getByRole("link", { name: "Tokens" }).click();
    await page.getByRole("heading", { name: "Thinking" }).waitFor();
});

state("tokens that are parts of a character are shown as bytes and cannot be departed from halfway", async (page) => {
    await say(page, "bytes");
    await (await answered(page)).getByRole("link", { name: "Tokens" }).click();
    await page.locator(".token.raw").first().click();
    assert.match(await page.locator(".token-detail").innerText(), /‹20›‹F0›‹9F›/);
    await page.locator(".token.raw").nth(1).click();
    assert.equal(await page.locator("button.alternative").count(), 0);
});

state("reading a long prompt is shown", async (page) => {
    await say(page, "prefill");
    await page.getByText(/Reading the prompt: \d+ of \d+ tokens/).waitFor();
    await answered(page);
});

state(
    "a failed request keeps the message and can be tried again",
    async (page) => {
        await say(page, "this fails");
        await page.getByText("The model's file was changed while it was in use.").waitFor();
        assert.equal(await page.locator(".turn.user .message").innerText(), "this fails");
        await page.getByRole("button", { name: "Try again" }).click();
        await page.getByText("The model's file was changed while it was in use.").waitFor();
        assert.equal(server().requests.length, 2);
    },
    { allowed: /status of 500/ },
);

state("an error in mid-stream keeps what came", async (page) => {
    await say(page, "this breaks");
    await page.getByText("numbers that are not finite").waitFor();
    assert.match(await answerText(page), /^The old captain had/);
});

state(
    "a full queue says so",
    async (page) => {
        await say(page, "a busy server");
        await page.getByText("All places are taken").waitFor();
    },
    { allowed: /status of 429/ },
);

state(
    "a connection that breaks is an error, not an end",
    async (page) => {
        await say(page, "this vanishes");
        await page.getByText("The connection broke in the middle of the answer.").waitFor();
        assert.match(await answerText(page), /^The old captain had/);
    },
    { allowed: /net::ERR/ },
);

state(
    "a full context says what to do",
    async (page) => {
        await say(page, "too long");
        await page.getByText("maximum context length is 512 tokens").waitFor();
        await page.getByText("The context is full").waitFor();
        await lastAnswer(page).getByRole("link", { name: "New conversation" }).click();
        await page.locator(".starter").first().waitFor();
    },
    { allowed: /status of 400/ },
);

state("a context that fills up in mid-answer", async (page) => {
    await say(page, "this fills it");
    await page.getByText("The context is full").waitFor();
});

state("a length that is reached, which a small context sets by itself", async (page) => {
    server().set({ context: 512 });
    await page.reload();
    await say(page, "length");
    await page.getByText("The answer has reached the length it was given.").waitFor();
    await lastAnswer(page).getByRole("button", { name: "Go on" }).waitFor();
    assert.equal(server().requests.at(-1).body.max_completion_tokens, 128);
});

state("no model", async (page) => {
    server().set({ models: [] });
    await page.reload();
    await page.getByText("rotor serve model.gguf").waitFor();
    assert.ok(await page.getByRole("button", { name: "Send" }).isDisabled());
    await page.getByRole("link", { name: "Model", exact: true }).click();
    await page.getByText("The server has no model.").waitFor();
});

state("loading, with progress; then the built-in model says that it only tells stories", async (page) => {
    server().set({ models: MODELS.slice(0, 1), loading: 0.42 });
    await page.reload();
    await page.getByText("Loading rotor-tiny").waitFor();
    await page.getByText("42 %").waitFor();
    server().set({ loading: null });
    await page.getByText("Loading rotor-tiny").waitFor({ state: "detached" });
    await page.getByText("It only tells stories").waitFor();
});

state(
    "a model that is not loaded is loaded from the model view",
    async (page) => {
        await page.getByLabel("Model", { exact: true }).selectOption("tiny-base");
        await page.getByRole("link", { name: "Model", exact: true }).click();
        await page.getByText("tiny-base is not loaded.").waitFor();
        await page.getByRole("button", { name: "Load it" }).click();
        await page.getByRole("heading", { name: "Layers" }).waitFor();
    },
    { allowed: /status of 409/ },
);

state("a model without a template goes on with the text", async (page) => {
    await page.getByLabel("Model", { exact: true }).selectOption("tiny-base");
    await page.getByText("it goes on with the text you give it").waitFor();
    await say(page, "Once");
    await answered(page);
    const { path, body } = server().requests.at(-1);
    assert.deepEqual([path, body.prompt, body.model], ["/v1/completions", "Once", "tiny-base"]);
    await lastAnswer(page).getByRole("link", { name: "Tokens" }).click();
    await page.locator(".token").first().waitFor();
});

state(
    "a server that is gone is tried again, with a countdown, until it is back",
    async (page, context) => {
        await ready(page);
        await context.route("**/v1/models", (route) => route.abort("connectionrefused"));
        await page.reload();
        await page.getByText("The server cannot be reached.").waitFor();
        await page.getByText(/Trying again in \d+ s\./).waitFor();
        await context.unroute("**/v1/models");
        await page.getByText("The server cannot be reached.").waitFor({ state: "detached" });
        await say(page, "hello");
        await answered(page);
    },
    { allowed: /net::ERR_CONNECTION_REFUSED/ },
);

state(
    "an API key is asked for once, kept in the session, and never in the address",
    async (page, context) => {
        server().set({ key: "secret" });
        await page.reload();
        await page.getByLabel("API key").fill("wrong");
        await page.getByRole("button", { name: "Use" }).click();
        await page.waitForTimeout(200);
        await page.getByLabel("API key").fill("secret");
        await page.getByRole("button", { name: "Use" }).click();
        await say(page, "hello");
        await answered(page);
        await page.reload();
        await ready(page);
        assert.doesNotMatch(page.url(), /secret/);
        const stored = await page.evaluate(() => [sessionStorage.getItem("rotor.key"), localStorage.getItem("rotor.key")]);
        assert.deepEqual(stored, ["secret", null]);
        const other = await context.newPage();
        await other.goto(page.url().replace(/#.*/, ""));
        await other.getByLabel("API key").waitFor();
    },
    { allowed: /status of 401/ },
);

state("eight requests run and three wait; one is stopped", async (page) => {
    server().set({ running: 8, waiting: 3 });
    await page.getByRole("link", { name: "Requests" }).click();
    await page.getByRole("heading", { name: "Running 8 of 16" }).waitFor();
    await page.getByRole("heading", { name: "Waiting 3 of 64" }).waitFor();
    await page.getByRole("button", { name: "Stop the request of curl 8.5.0" }).click();
    await page.getByRole("heading", { name: "Running 7 of 16" }).waitFor();
    await page.getByRole("img", { name: /Time to the first token/ }).waitFor();
});

state("with nothing running, three clients are shown how to come here", async (page) => {
    await page.getByRole("link", { name: "Requests" }).click();
    for (const text of ["curl", "Python", "JavaScript"]) await page.locator(".snippets figcaption", { hasText: text }).waitFor();
    assert.ok((await page.locator(".snippets").innerText()).includes(new URL("v1/chat/completions", page.url()).href));
});

state("an answer goes on while another view is shown", async (page) => {
    await say(page, "slow");
    await page.waitForFunction(() => document.querySelector(".turn.assistant .markdown")?.innerText.length > 5);
    await page.getByRole("link", { name: "Model", exact: true }).click();
    await page.getByRole("heading", { name: "Layers" }).waitFor();
    await page.goBack();
    await answered(page);
    assert.match(await answerText(page), /nothing of which winter\.$/);
});

state("finished sentences are announced, not single tokens", async (page) => {
    await ready(page);
    await page.evaluate(() => {
        window.said = [];
        new MutationObserver(() => window.said.push(document.getElementById("live").textContent)).observe(
            document.getElementById("live"),
            { childList: true },
        );
    });
    await say(page, "story");
    await answered(page);
    const said = (await page.evaluate(() => window.said)).filter(Boolean);
    assert.ok(said.length >= 2 && said.length <= 6, said.join(" | "));
    assert.match(said[0], /^The old captain .+ years\.$/);
    assert.match(said.at(-1), /winter\.$/);
});

state(
    "on a phone the side bar slides in, and closes with a choice",
    async (page) => {
        await ready(page);
        await page.getByRole("button", { name: "Conversations and views" }).click();
        await page.getByRole("link", { name: "Requests" }).click();
        await page.getByRole("heading", { name: "Requests", level: 1 }).waitFor();
        await page.waitForFunction(() => !document.querySelector(".side").checkVisibility({ visibilityProperty: true }));
    },
    { options: { viewport: { width: 390, height: 844 } } },
);
